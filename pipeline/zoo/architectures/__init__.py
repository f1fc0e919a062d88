"""The MobileNet family and YOLOv4-tiny as ONNX graphs, from their papers' tables."""
