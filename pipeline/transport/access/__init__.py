"""Who may connect to a socket: users of this machine, and keys with their rights."""
