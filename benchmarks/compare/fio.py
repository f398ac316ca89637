"""fio beside our own drive probe: the same reads, asked of a program that is not ours."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_SPARE_S = 30.0


def find_fio() -> Path | None:
    """Return where fio is; None if it is not installed."""
    found = shutil.which("fio")
    return Path(found) if found else None


def fio_gbps(
    program: Path | None, files: Sequence[Path], *, block_bytes: int, depth: int, seconds: float = 1.0
) -> float | None:
    """Return GB/s of direct random reads of some files, as fio says; None without it, or if it cannot.

    Huge pages for its buffers are not asked for: a machine has to be prepared for that. Where reads into small pages
    are slower, this shows it.
    """
    if program is None:
        return None
    argv = [str(program), *arguments(files, block_bytes=block_bytes, depth=depth, seconds=seconds)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=seconds + _SPARE_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else read_rate(done.stdout)


def arguments(files: Sequence[Path], *, block_bytes: int, depth: int, seconds: float) -> list[str]:
    """Return fio's arguments."""
    names = ":".join(str(file).replace(":", "\\:") for file in files)
    return [
        "--name=experts", f"--filename={names}", "--readonly", "--rw=randread", f"--bs={block_bytes}", "--direct=1",
        "--ioengine=libaio", f"--iodepth={depth}", "--time_based", f"--runtime={seconds:g}",
        "--file_service_type=random",
        "--allrandrepeat=0", "--output-format=json",
    ]  # fmt: skip


def read_rate(text: str) -> float | None:
    """Return GB/s of what fio printed; None if it is something else, or nothing was read."""
    try:
        job: dict[str, Any] = json.loads(text[text.index("{") :])["jobs"][0]["read"]
        rate = float(job["bw_bytes"])
    except (ValueError, LookupError, TypeError):
        return None
    return round(rate / 1e9, 4) if rate > 0 else None
