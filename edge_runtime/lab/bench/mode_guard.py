"""Sets a Jetson's power mode back when whoever changed it is gone, however it went: run as a process of its own.

`python mode_guard.py NVPMODEL MODE STATE`: waits for its standard input to end, which the kernel sees to even when the
writer was killed. Unless the word `done` came first, it runs `NVPMODEL -m MODE` and removes the file STATE. It imports
nothing of this package, so that it works however the package came to harm.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

DONE = b"done"
_TRIES, _LIMIT_S = 3, 60


def main(nvpmodel: str, mode: str, state: str, limit_s: float = _LIMIT_S) -> int:
    """Wait, and set the mode back if need be; a try takes `limit_s` at most."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read() == DONE:
        return 0
    for _ in range(_TRIES):
        try:
            done = subprocess.run(  # noqa: S603 - the command that changed the mode
                [nvpmodel, "-m", mode], stdin=subprocess.DEVNULL, timeout=limit_s, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(state)
            return 0
    return 1


if __name__ == "__main__":
    command, number, file = sys.argv[1:]
    sys.exit(main(command, number, file))
