"""Files that are written: temporary folders, and outputs that are complete or not there."""
