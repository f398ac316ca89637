"""Architectures by relationship: each file builds the configurations of a few."""
