"""Runs requests: sessions, the layer loop, the scheduler, sampling, text, and the public API."""
