"""Builds the dense part of a bundle: ONNX graphs with external data, one part at a time. Needs onnx, never torch."""
