"""Training of a classifier head on labelled images."""
