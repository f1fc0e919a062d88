"""Frames in: cameras, video files and streams, images, and the demo scene."""
