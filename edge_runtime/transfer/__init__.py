"""Bundles that travel: the folder of models, `pull` and `push`. Nothing else of the runtime opens a connection."""
