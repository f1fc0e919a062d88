"""Results out: drawing, window, video file, JSON lines."""
