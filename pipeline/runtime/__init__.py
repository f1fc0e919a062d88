"""Threads that pass things on: mailbox, stage, counts and times. Knows nothing of images."""
