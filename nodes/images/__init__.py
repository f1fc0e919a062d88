"""Images in and out: sources of frames, subscriptions, publishers and pixel formats."""
