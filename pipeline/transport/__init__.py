"""Frames and results between processes and machines, over ZeroMQ and shared memory."""
