"""Where a model computes. `base.py` says what a backend makes; one folder a backend."""
