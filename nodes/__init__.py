"""The ROS 2 side: one file a node, over the engine in `pipeline`."""
