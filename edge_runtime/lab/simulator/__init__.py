"""Traces of real routing, and their replay through the runtime's own policies, cache and eviction, without a model."""
