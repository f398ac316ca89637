"""Experts on the device: arena, drive, residency, eviction, and the cache that joins them."""
