"""Images and results between processes, compared with other transports: `make bench-transport`."""
