"""The ROS 2 nodes, one file each, built on the engine in `pipeline`."""
