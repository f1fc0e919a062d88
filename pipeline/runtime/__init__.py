"""Threads that pass things on: mailbox, stage, metrics. Knows nothing of images."""
