"""Pixels to objects: sessions, resize, detector, decode and NMS, classifier."""
