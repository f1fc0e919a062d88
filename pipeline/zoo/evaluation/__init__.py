"""Accuracy of detectors and classifiers, and comparison of models."""
