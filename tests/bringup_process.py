"""`hobbit bringup` as a process of its own over steps that a test names, to be signalled and killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from patience import until

_PROGRAM = """
import sys
from functools import partial
from pathlib import Path
from edge_runtime.__main__ import main
from edge_runtime.lab.bringup import bringup
from edge_runtime.lab.bringup.steps import Step

root, code, mode, *words = sys.argv[1:]
command = (sys.executable, "-c", code)
bringup.Bringup = partial(bringup.Bringup, root=Path(root))
bringup.Bringup.func.steps = lambda self: [Step("bench it", "a step", command, folder="it", power_mode=mode)]
sys.exit(main(["bringup", *words]))
"""
MEASURES = """
import os, sys, time
out = sys.argv[-1]
os.mkdir(out)
open(out + "/report.json", "w").write('{"n": 2}')
open(out + "/pid.part", "w").write(str(os.getpid()))
os.rename(out + "/pid.part", out + "/pid")
while not os.path.exists(out + "/end"): time.sleep(.02)
"""
"""A step that has measured something, and goes on until it finds a file `end`."""


@contextmanager
def measuring(
    out: Path, root: Path = Path("/"), mode: str = "", prepare: Callable[[], None] | None = None
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start a bring-up; yield it and the /proc of its step, once that measures.

    Args:
        out: of the results.
        root: of a board's files.
        mode: of the board that the step is measured in.
        prepare: runs in the process before it begins.
    """

    def begin() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored, and so it would stay
        if prepare is not None:
            prepare()

    words = ["--out", str(out), *(["--power-modes"] if mode else [])]
    command = [sys.executable, "-c", _PROGRAM, str(root), MEASURES, mode, *words]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, preexec_fn=begin
    ) as process:
        try:
            until(lambda: (out / "it/pid").exists() or process.poll() is not None, "the step measures")
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            yield process, Path("/proc") / (out / "it/pid").read_text()
        finally:
            process.kill()


def is_gone(process: Path) -> bool:
    """Whether a process has ended; nobody need have asked how."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
