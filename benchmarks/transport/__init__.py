"""Images and results from process to process, against other ways: `make bench-transport`."""
