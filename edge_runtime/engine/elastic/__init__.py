"""Elastic memory: experts take what memory there is, give it back before others need it, and do not thrash."""
