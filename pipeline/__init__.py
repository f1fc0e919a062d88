"""Real-time video pipeline: capture, detection and classification on a small CPU."""
