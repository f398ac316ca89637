"""Processes of our own program: how they are started, and that they do not outlive whoever started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def module_command(name: str, *arguments: str) -> list[str]:
    """Return the command that runs a module as a program, found where this process finds its own modules.

    `python -m` looks in the working folder first. In a checkout it finds this package without its native parts there;
    anywhere else, whatever file has the name of a library.

    Args:
        name: of the module, which `ps` shows too.
        arguments: of the program.
    """
    places = [os.path.abspath(place) for place in sys.path]
    code = (
        f"import sys; sys.path[:] = {places!r}; del sys.argv[0]; import runpy; "
        "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-c", code, name, *arguments]


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
