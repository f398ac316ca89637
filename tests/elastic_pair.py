"""Two engines at the same time, each in a memory cgroup of its own beside a process that takes memory and gives it back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from synthetic import qwen3_config, run_export, write_qwen3

REPO = Path(__file__).parents[1]
MIB = 1 << 20
_EATER = """
import sys, time
size, first, stays, away = int(sys.argv[1]), *map(float, sys.argv[2:])
time.sleep(first)
while True:
    taken = []
    for _ in range(size >> 20):
        block = bytearray(1 << 20)
        block[::4096] = b"x" * 256
        taken.append(block)
        time.sleep(0.005)
    time.sleep(stays)
    del taken, block
    time.sleep(away)
"""


class Eater(NamedTuple):
    """The other process.

    Attributes:
        size: bytes it takes.
        first: seconds before it comes.
        stays: seconds it keeps them.
        away: seconds before it comes again.
    """

    size: int
    first: float
    stays: float
    away: float


def export_experts(folder: Path) -> Path:
    """Make a bundle of 512 experts of 0.4 MB."""
    write_qwen3(folder / "checkpoint", qwen3_config(256, 512, 64, 8, num_experts_per_tok=4))
    code, _, err = run_export(folder / "checkpoint", "--out", folder / "bundle", "--tiers", "8", "--trunk", "fp32")
    assert code == 0, err
    return folder / "bundle"


class Group:
    """A memory cgroup of version 1 or 2.

    Raises:
        OSError: none can be made here.
    """

    number = 0

    def __init__(self, limit: int) -> None:
        v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
        self.is_v1 = (v1 / "memory.limit_in_bytes").exists()
        self.path = (v1 if self.is_v1 else v2) / f"hobbit-elastic-{os.getpid()}-{Group.number}"
        Group.number += 1
        self.path.mkdir()
        (self.path / ("memory.limit_in_bytes" if self.is_v1 else "memory.max")).write_text(str(limit))

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a process in it."""
        inside = ["sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "sh", *command]
        environment = {**os.environ, "PYTHONPATH": str(REPO)}
        return subprocess.Popen(
            inside, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    @property
    def kills(self) -> int:
        """How often the kernel killed something in it."""
        name = "memory.oom_control" if self.is_v1 else "memory.events"
        lines = (self.path / name).read_text().split("\n")
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)

    def remove(self) -> None:
        """Remove it; the kernel lets go a moment after the last process has."""
        for _ in range(100):
            try:
                return self.path.rmdir()
            except OSError:
                time.sleep(0.05)
        return None


@contextmanager
def _speaking(
    bundle: Path, limit: int, eater: Eater, options: dict[str, Any], seconds: float
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Let a model get ready in a cgroup of its own, with an eater in it; it speaks once it is told to."""
    inside = Group(limit)
    speaker = inside.start(
        sys.executable, str(REPO / "tests/elastic_speaker.py"), str(bundle), str(seconds), json.dumps(options)
    )
    other = None
    try:
        assert speaker.stdout is not None
        assert speaker.stderr is not None
        ready = json.loads(speaker.stdout.readline() or json.dumps({"died": speaker.stderr.read()[-2000:]}))
        assert "ready" in ready, ready
        other = inside.start(sys.executable, "-c", _EATER, *map(str, eater))
        yield speaker, ready
        assert other.poll() is None, "the eater lives"
        assert inside.kills == 0
    finally:
        for process in filter(None, (speaker, other)):
            process.kill()
            process.communicate()
        inside.remove()


def side_by_side(
    bundle: Path, limit: int, eater: Eater, *options: dict[str, Any], seconds: float
) -> list[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Let models speak at the same time, so that whatever else runs slows all of them.

    Returns:
        For each its requests, as elastic_speaker.py writes them, and what it said when it was ready.

    Raises:
        AssertionError: one of them failed, or the kernel killed a process.
        OSError: no memory cgroup can be made here.
    """
    with ExitStack() as stack:
        speakers = [stack.enter_context(_speaking(bundle, limit, eater, each, seconds)) for each in options]
        for speaker, _ in speakers:
            assert speaker.stdin is not None
            speaker.stdin.write("\n")
            speaker.stdin.flush()
        found = []
        for speaker, ready in speakers:
            assert speaker.stdout is not None
            assert speaker.stderr is not None
            lines = [json.loads(line) for line in speaker.stdout]
            assert speaker.wait() == 0, speaker.stderr.read()[-2000:]
            found.append((lines, ready))
    return found
