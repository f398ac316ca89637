"""Engines for the dense part of the model, behind the protocol of `edge_runtime.backends.trunk`."""
