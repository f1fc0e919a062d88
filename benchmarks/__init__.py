"""Paired measurements of the pipeline against other ways to do the same job: `make bench`."""
