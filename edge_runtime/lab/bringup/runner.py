"""Runs a step as a process of its own: what it prints is bounded, its time is too, and its failure is a result."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import IO, Any

from edge_runtime.base.errors import RequestError
from edge_runtime.lab.bringup.steps import HOBBIT, Step

MOST_JSON, MOST_TEXT = 512 << 10, 4000
_GRACE_S = 10.0
Result = dict[str, Any]


def run_step(step: Step, out: Path, environment: Mapping[str, str], most_s: float) -> Result:
    """Run a step; return its outcome: passed, failed, timed out, or not available, and what it said.

    Args:
        step: what to run.
        out: folder of the bring-up; what the step writes goes below it.
        environment: of the process.
        most_s: seconds it may take.

    Raises:
        RequestError: the folder has no room for what it prints.
    """
    if step.why_not:
        return {"outcome": "not available", "why": step.why_not}
    if step.verb and not (words := help_words(step.verb)):
        return {"outcome": "not available", "why": f"this version has no `hobbit {step.verb}`"}
    if step.verb:
        step = replace(step, command=(*step.command, *(word for needed, word in step.optional if needed in words)))
    if step.folder:
        folder = out / step.folder
        shutil.rmtree(folder, ignore_errors=True)
        step = replace(step, command=(*step.command, "--out", str(folder)))
    if step.before and (failed := _run(step.before, out, environment, 60.0))["outcome"] != "passed":
        return failed | {"why": f"{' '.join(step.before)}: {failed['why']}"}
    return _run(step.command, out, environment, min(most_s, 60 * step.minutes))


@cache
def help_words(verb: str) -> frozenset[str]:
    """Return the flags and names of arguments in a verb's help; none if this version does not have the verb."""
    done = subprocess.run(
        [*HOBBIT, "help", verb], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    return (
        frozenset(re.findall(r"(?<![\w-])(?:--?[a-z][\w-]*|[A-Z]+\b)", done.stdout))
        if done.returncode == 0
        else frozenset()
    )


def _run(command: tuple[str, ...], out: Path, environment: Mapping[str, str], most_s: float) -> Result:
    start = time.monotonic()
    with _room(out) as said, _room(out) as complained:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=complained, cwd=out, env=environment,
                start_new_session=True,
            )  # fmt: skip
        except OSError as err:
            return {"outcome": "failed", "why": f"{command[0]}: {err.strerror}", "command": list(command)}
        code = _wait(process, most_s)
        found: Result = {"command": list(command), "exit": code, "seconds": round(time.monotonic() - start, 1)}
        found |= _said(_start(said, MOST_JSON + 1), _end(said)) | {"stderr": _end(complained)}
    if code is None:
        return found | {"outcome": "timed out", "why": f"not done after {most_s:.0f} s"}
    if code:
        return found | {"outcome": "failed", "why": _why(code, found["stderr"])}
    if "SKIPPED" in found["stderr"]:
        return found | {"outcome": "not available", "why": found["stderr"].strip().splitlines()[-1]}
    return found | {"outcome": "passed"}


def _why(code: int, complained: str) -> str:
    """Say why a process failed: what it said last, or which signal ended it."""
    if code == -signal.SIGKILL:
        return "it was killed: the kernel does that to a process that takes too much memory, see dmesg"
    if code < 0:
        return f"a signal ended it: {signal.strsignal(-code) or -code}"
    return (complained.strip().splitlines() or [f"exit code {code}"])[-1]


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


def _wait(process: subprocess.Popen[bytes], most_s: float) -> int | None:
    """Wait for a process and end it and its children if it takes too long, or if this one is interrupted."""
    try:
        return process.wait(most_s)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        return None
    finally:
        if process.poll() is None:
            _signal(process, signal.SIGKILL)
            process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _said(whole: bytes, end: str) -> Result:
    """What was printed: the object it is, or the end of the text."""
    if len(whole) <= MOST_JSON:
        try:
            return {"json": json.loads(whole)}
        except ValueError:
            pass
    return {"stdout": end}


def _start(file: Any, most: int) -> bytes:
    file.seek(0)
    return bytes(file.read(most))


def _end(file: Any) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - MOST_TEXT))
    return bytes(file.read()).decode("utf-8", "replace")


Run = Callable[[Step, Path, Mapping[str, str], float], Result]
