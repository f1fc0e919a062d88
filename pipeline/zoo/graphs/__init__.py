"""Inspection and rewriting of ONNX graphs."""
