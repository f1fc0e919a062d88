"""The connections of a socket: who is at the other end, and how many there may be."""
