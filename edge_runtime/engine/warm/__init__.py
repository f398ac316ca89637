"""Warm start: experts a workload used before are read again in their order, while requests are served."""
