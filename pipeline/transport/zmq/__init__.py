"""ZeroMQ sockets: publishers, subscribers, keys and groups."""
