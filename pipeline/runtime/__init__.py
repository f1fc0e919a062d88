"""Threads and what connects them: stages, mailboxes, counts, times. Knows nothing of images."""
