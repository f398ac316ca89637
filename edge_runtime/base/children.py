"""Processes of our own program that must not outlive whoever started them."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def dies_with_parent() -> Callable[[], None]:
    """Return a `preexec_fn`: the kernel ends the child when this process is gone, however that went.

    For processes without other threads: between fork and exec nothing but this thread goes on.
    """
    parent, prctl = os.getpid(), ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # gone already
            os._exit(128 + signal.SIGTERM)

    return prepare
