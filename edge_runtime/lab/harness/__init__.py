"""Benchmarks of EleutherAI's lm-evaluation-harness on a bundle: a model class for it, and its command."""
