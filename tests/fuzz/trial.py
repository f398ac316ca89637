"""One try of a command on a hostile bundle, in a process of its own: how it ended, how long it took, what it held."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 10.0
ALLOWANCE = 64 << 20


@dataclass(frozen=True)
class Ending:
    """How a process ended.

    Attributes:
        code: its exit code; negative: the signal that ended it.
        seconds: of processor time of its own; a busy machine makes the clock say nothing.
        peak_bytes: its largest resident set.
        output: what it wrote.
    """

    code: int
    seconds: float
    peak_bytes: int
    output: str

    def problem(self, budget: int, allowed: tuple[int, ...] = (0, 78)) -> str | None:
        """What is wrong with it; None: nothing."""
        if "Traceback" in self.output:
            return "a traceback"
        if self.code not in allowed:
            return f"exit code {self.code}"
        if self.seconds > LIMIT_S:
            return f"{self.seconds:.1f} s"
        if self.peak_bytes > budget + ALLOWANCE:
            return f"{self.peak_bytes >> 20} MiB of {budget >> 20}"
        return None


def attempt(work: Callable[[], int], scratch: Path, limit_s: float = LIMIT_S) -> Ending:
    """Run work in a fork: whatever it loads, allocates or breaks is gone with it.

    Args:
        work: returns an exit code.
        scratch: a file for what it writes.
        limit_s: processor seconds after which the kernel ends it, doubled.
    """
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            output = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            resource.setrlimit(resource.RLIMIT_CPU, (int(2 * limit_s), int(2 * limit_s)))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            code = work()
        except SystemExit as err:
            code = err.code if isinstance(err.code, int) else 1
        except BaseException:  # noqa: BLE001
            import traceback

            traceback.print_exc()
        finally:
            import sys

            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    deadline = time.monotonic() + 60 * limit_s
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            break
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(status)
    text = scratch.read_text(errors="replace") if scratch.exists() else ""
    return Ending(code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, text[-20_000:])
