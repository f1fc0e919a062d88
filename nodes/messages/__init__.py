"""Conversions between ROS messages and the data of the engine, and diagnostics."""
