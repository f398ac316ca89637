"""The trunk on ONNX Runtime's CUDA provider, where a test inference shows that it works."""
