"""A second backend, for tests: memory apart from the host's, work that runs late and in another thread.

It computes with the CPU backend's trunk and kernels, so its results can be compared bit for bit. What it has of its own
is everything a GPU has besides arithmetic: tensors the host cannot read, slots the host cannot write, transfers through
staging buffers, queues, events, a clock. A host that forgets to wait gets wrong numbers or an error, not luck.
"""

from __future__ import annotations

import os

from edge_runtime.backends.base import BackendOptions
from late_backend.backend import LateBackend

MODES = ("late", "random:1", "random:2")
"""`late`: work runs when somebody waits for it, no sooner. `random:SEED`: at random moments beside the host."""


def make(options: BackendOptions) -> LateBackend:
    """Make it as HOBBIT's registry does; the mode comes from the environment variable LATE_BACKEND."""
    return LateBackend(options, os.environ.get("LATE_BACKEND", MODES[0]))
