"""Starts the processes that measure, and understands how they end."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Mapping
from typing import Any

from edge_runtime.base.children import dies_with_parent, module_command
from edge_runtime.base.errors import DeviceError
from edge_runtime.lab.tune.measurement import Failure

_CHILD = "edge_runtime.lab.tune.child"
_SHOWN = 300


def run_job(job: Mapping[str, Any], timeout_s: float) -> dict[str, Any] | Failure:
    """Do a job in a process of its own; return what it said, or why it said nothing."""
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            module_command(_CHILD), input=json.dumps(job), capture_output=True, text=True, timeout=timeout_s,
            check=False, preexec_fn=dies_with_parent(),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Failure(f"not done after {timeout_s:.0f} s")
    return ended(done.returncode, done.stdout, done.stderr)


def ended(code: int, out: str, err: str) -> dict[str, Any] | Failure:
    """Return what a process said, or how it ended.

    Args:
        code: its exit status, negative for a signal.
        out: its standard output: one JSON object.
        err: its standard error.
    """
    if code < 0:
        name = signal.Signals(-code).name
        killed = " (the system was out of memory: see dmesg)" if -code == signal.SIGKILL else ""
        return Failure(f"ended by {name}{killed}")
    try:
        found = json.loads(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return Failure(f"ended with status {code}: {err.strip()[-_SHOWN:] or 'it said nothing'}")
    if not isinstance(found, dict):
        return Failure(f"said {out.strip()[:_SHOWN]!r}")
    return Failure(str(found["failed"])) if "failed" in found else found


def require(found: dict[str, Any] | Failure, what: str) -> dict[str, Any]:
    """Return what a process said.

    Raises:
        DeviceError: it said nothing.
    """
    if isinstance(found, Failure):
        raise DeviceError(f"tune: {what}: {found.why}")
    return found
