"""The CPU backend: native expert kernels and an ONNX Runtime trunk."""
