"""Parameters of the nodes and the topics whose QoS parameters override."""
