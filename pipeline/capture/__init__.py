"""Frames in: cameras, video files and streams, image folders, the demo scene."""
