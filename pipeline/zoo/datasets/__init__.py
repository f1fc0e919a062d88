"""Readers of image folders and labelled data sets."""
