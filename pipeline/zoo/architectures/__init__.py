"""MobileNet and YOLOv4-tiny architectures as ONNX graphs, from their papers' tables."""
