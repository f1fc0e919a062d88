"""Choice of the most accurate network that is fast enough on this machine."""
