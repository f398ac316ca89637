"""Peak memory of a command as the kernel saw it, from outside.

`ru_maxrss` of a child counts what this process held when it was forked (torch, here), so /proc is polled instead: VmHWM only
grows, and belongs to the program that was executed.
"""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path


def run_measured(command: list[str]) -> tuple[subprocess.CompletedProcess[str], int]:
    """Run a command to its end; return it and the highest VmHWM in bytes seen while it ran."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = 0

    def watch() -> None:
        nonlocal peak
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            try:
                line = next((x for x in status.read_text().splitlines() if x.startswith("VmHWM")), None)
            except OSError:
                return
            peak = max(peak, int(line.split()[1]) * 1024 if line else 0)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, err = process.communicate()
    watcher.join()
    return subprocess.CompletedProcess(command, process.returncode, out, err), peak
