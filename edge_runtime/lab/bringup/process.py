"""Runs one process: what it prints is bounded, and it is ended when it stands still or its time is over."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from edge_runtime.base.children import dies_with_parent
from edge_runtime.base.errors import RequestError
from edge_runtime.config.limits import memory_groups
from edge_runtime.lab.bringup.moving import Movement

MOST_JSON, MOST_TEXT, _MOST_WHY = 512 << 10, 4000, 1000
GRACE_S = 10.0
"""From the signal that asks a process to end to the one that ends it."""
STILL_S = 120.0
"""What has not moved for so long is stuck. Nothing here waits so long for a drive, a GPU or a meter."""
_LOOKS = 8
_NO_ROOM = re.compile(r"BudgetError|MemoryError|[Oo]ut of memory|Cannot allocate memory|bad_alloc")
PASSED, FAILED, STUCK, CUT = "passed", "failed", "stuck", "cut short"
Result = dict[str, Any]


def run_process(
    command: Sequence[str], out: Path, environment: Mapping[str, str], most_s: float, still_s: float = STILL_S
) -> Result:
    """Run it; return its outcome, why it is not "passed", and what it printed.

    Args:
        command: what is run, in a session of its own; it ends when this process does, however that goes.
        out: folder it runs in; has to have room for what it prints.
        environment: of the process.
        most_s: seconds it may take while it does something.
        still_s: seconds it may take doing nothing.

    Raises:
        RequestError: the folder has no room for what it prints.
    """
    start, kills = time.monotonic(), _memory_kills()
    with _room(out) as said, _room(out) as complained:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=complained, cwd=out, env=environment,
                start_new_session=True, preexec_fn=dies_with_parent(),
            )  # fmt: skip
        except OSError as err:
            return {"outcome": FAILED, "why": f"{command[0]}: {err.strerror}", "command": list(command)}
        ended = _wait(process, Movement(process.pid, lambda: _sizes(said, complained), still_s), most_s, still_s)
        seconds = time.monotonic() - start
        found: Result = {"command": list(command), "exit": process.returncode, "seconds": round(seconds, 1)}
        found |= _said(_start(said, MOST_JSON + 1), _end(said)) | {"stderr": _end(complained)}
    return found | _outcome(ended, found, still_s, _memory_kills() - kills)


def _outcome(ended: str, found: Result, still_s: float, kills: int) -> Result:
    """Say what came of a process that ended by itself (``""``), stuck, or cut short."""
    seconds, said = found["seconds"], found["stderr"]
    if ended == STUCK:
        return {
            "outcome": STUCK,
            "why": f"for {still_s:g} s it did not compute, use the drive or print; ended after {seconds:.0f} s",
        }
    if ended == CUT:
        return {
            "outcome": CUT,
            "why": f"still at work after {seconds:.0f} s, when its share of the time was over: run again, it comes "
            "last then and has what is left; --minutes gives more",
        }
    if found["exit"] == 0:
        return {"outcome": PASSED}
    why = _why(found["exit"], said, kills)
    return {"outcome": FAILED, "why": why} | ({"did_not_fit": True} if kills or _NO_ROOM.search(why) else {})


def _why(code: int, complained: str, kills: int) -> str:
    """Say why a process failed: what it said last, or which signal ended it."""
    last = _last_said(complained) or f"exit code {code}"
    if kills:
        return f"the kernel killed {kills} process{'es' * (kills > 1)} of it for want of memory. {last}"
    if code == -signal.SIGKILL:
        return "it was killed: the kernel does that to a process that takes too much memory, see dmesg"
    if code < 0:
        return f"a signal ended it: {signal.strsignal(-code) or -code}"
    return last


def _last_said(complained: str) -> str:
    """Return the last message: its line, and those indented behind it, in one."""
    lines = complained.strip().splitlines()
    start = max((number for number, line in enumerate(lines) if not line[:1].isspace()), default=0)
    return " ".join(line.strip() for line in lines[start:])[:_MOST_WHY]


def _memory_kills() -> int:
    """How often the kernel killed a process in this one's memory cgroup for want of memory."""
    return next((group.kills() for group in memory_groups()), 0)


def _room(out: Path) -> IO[bytes]:
    """Return a file without a name for what a step prints.

    Raises:
        RequestError: there is no room for it.
    """
    try:
        return tempfile.TemporaryFile(dir=out)
    except OSError as err:
        raise RequestError(
            f"out: {out}: cannot hold what a step prints: {err.strerror}. Free space there, or name another one, then "
            "run again."
        ) from err


def _wait(process: subprocess.Popen[bytes], movement: Movement, most_s: float, still_s: float) -> str:
    """Wait for a process, and end it and its children where it has to be; return why, or "" if it ended by itself."""
    end = time.monotonic() + most_s
    try:
        while (left := end - time.monotonic()) > 0:
            with suppress(subprocess.TimeoutExpired):
                process.wait(min(left, still_s / _LOOKS))
                return ""
            if movement.is_still():
                return _terminate(process, STUCK)
        return _terminate(process, CUT)
    finally:
        if process.poll() is None:
            _signal(process, signal.SIGKILL)
            process.wait()


def _terminate(process: subprocess.Popen[bytes], why: str) -> str:
    _signal(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    _signal(process, signal.SIGKILL)  # children that did not end with it
    return why


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _sizes(*files: IO[bytes]) -> int:
    return sum(os.fstat(file.fileno()).st_size for file in files)


def _said(whole: bytes, end: str) -> Result:
    """What was printed: the object it is, or the end of the text."""
    if len(whole) <= MOST_JSON:
        with suppress(ValueError):
            return {"json": json.loads(whole)}
    return {"stdout": end}


def _start(file: Any, most: int) -> bytes:
    file.seek(0)
    return bytes(file.read(most))


def _end(file: Any) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - MOST_TEXT))
    return bytes(file.read()).decode("utf-8", "replace")
