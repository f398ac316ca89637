"""Elastic memory in a real cgroup, beside a process that takes memory and gives it back: `make elastic-check`.

Needs root and a minute or two. The elastic run has to be as fast as one with a small cache that stays, whatever the
other process does, and nobody may be killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import pytest
from conftest import REPO
from synthetic import qwen3_config, run_export, write_qwen3

pytestmark = pytest.mark.system
MIB = 1 << 20
SECONDS, PERIOD_S = 48, 12.0
STRETCHES = [number * PERIOD_S for number in range(int(SECONDS / PERIOD_S))]
EATER = """
import sys, time
size, period = int(sys.argv[1]), float(sys.argv[2])
time.sleep(period)
while True:
    taken = []
    for _ in range(size >> 20):
        block = bytearray(1 << 20)
        block[::4096] = b"x" * 256
        taken.append(block)
        time.sleep(0.005)
    time.sleep(period)
    del taken, block
    time.sleep(period)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """512 experts of 0.4 MB."""
    folder = tmp_path_factory.mktemp("elastic")
    config = qwen3_config(256, 512, 64, 8, num_experts_per_tok=4)
    write_qwen3(folder / "checkpoint", config)
    code, _, err = run_export(folder / "checkpoint", "--out", folder / "bundle", "--tiers", "8", "--trunk", "fp32")
    assert code == 0, err
    return folder / "bundle"


class Group:
    """A memory cgroup of version 1 or 2."""

    number = 0

    def __init__(self, limit: int) -> None:
        v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
        self.is_v1 = (v1 / "memory.limit_in_bytes").exists()
        self.path = (v1 if self.is_v1 else v2) / f"hobbit-elastic-{os.getpid()}-{Group.number}"
        Group.number += 1
        try:
            self.path.mkdir()
            (self.path / ("memory.limit_in_bytes" if self.is_v1 else "memory.max")).write_text(str(limit))
        except OSError as err:
            pytest.skip(f"NO MEMORY CGROUP: elastic memory was not tested in a real one here ({err})")

    def start(self, *command: str) -> subprocess.Popen[str]:
        inside = ["sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "sh", *command]
        environment = {**os.environ, "PYTHONPATH": str(REPO)}
        return subprocess.Popen(
            inside, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    @property
    def kills(self) -> int:
        name = "memory.oom_control" if self.is_v1 else "memory.events"
        lines = (self.path / name).read_text().split("\n")
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)

    def remove(self) -> None:
        for _ in range(100):
            try:
                return self.path.rmdir()
            except OSError:
                time.sleep(0.05)
        return None


@contextmanager
def speaking(
    bundle: Path, limit: int, eaten: int, options: dict, seconds: float
) -> Iterator[tuple[subprocess.Popen[str], dict, Group]]:
    """Let a model get ready in a cgroup of its own, with an eater in it; it speaks once it is told to."""
    inside = Group(limit)
    speaker = inside.start(
        sys.executable, str(REPO / "tests/elastic_speaker.py"), str(bundle), str(seconds), json.dumps(options)
    )
    eater = None
    try:
        ready = json.loads(speaker.stdout.readline() or json.dumps({"died": speaker.stderr.read()[-2000:]}))
        assert "ready" in ready, ready
        eater = inside.start(sys.executable, "-c", EATER, str(eaten), str(PERIOD_S / 2))
        yield speaker, ready, inside
        assert eater.poll() is None, "the eater lives"
        assert inside.kills == 0
    finally:
        for process in filter(None, (speaker, eater)):
            process.kill()
            process.communicate()
        inside.remove()


def side_by_side(
    bundle: Path, limit: int, eaten: int, *options: dict, seconds: float = SECONDS
) -> list[tuple[list[dict], dict]]:
    """Let models speak at the same time, so that whatever else runs slows all of them."""
    with ExitStack() as stack:
        speakers = [stack.enter_context(speaking(bundle, limit, eaten, each, seconds)) for each in options]
        for speaker, _, _ in speakers:
            speaker.stdin.write("\n")
            speaker.stdin.flush()
        found = []
        for speaker, ready, _ in speakers:
            lines = [json.loads(line) for line in speaker.stdout]
            assert speaker.wait() == 0, speaker.stderr.read()[-2000:]
            found.append((lines, ready))
    return found


def rates(lines: list[dict]) -> list[float]:
    """The median rate of each quarter of a period."""
    step = PERIOD_S / 4
    slots: dict[int, list[float]] = {}
    for line in lines:
        slots.setdefault(int(line["at"] / step), []).append(line["rate"])
    return [median(slots[number]) for number in sorted(slots)]


def test_an_elastic_cache_in_a_cgroup_beside_a_process_that_comes_and_goes(bundle):
    limit, eaten = 480 * MIB, 200 * MIB
    (small, ready), (elastic, full) = side_by_side(bundle, limit, eaten, {"memory": 200 * MIB}, {"elastic": True})
    assert ready["ready"] < full["ready"]
    said = {line["number"]: line["ids"] for line in small}
    assert all(line["ids"] == said.get(line["number"], line["ids"]) for line in elastic), "tokens do not change"
    slots = [line["slots"] for line in elastic]
    assert min(slots) < 0.8 * max(slots), "it gave memory back"
    assert elastic[-1]["elastic"]["shrunk"] >= 1
    mine, theirs = rates(elastic), rates(small)
    print("tok/s by quarter of a period: elastic", [round(r, 1) for r in mine], "small", [round(r, 1) for r in theirs])
    print("slots:", min(slots), "to", max(slots), "of", full["all"], "small", ready["ready"], elastic[-1]["elastic"])
    # requests in the same time, side by side: of all of it, and of each stretch between the other's coming and going
    counts = [[sum(start <= line["at"] < start + PERIOD_S for line in lines) for start in STRETCHES]
              for lines in (elastic, small)]  # fmt: skip
    print("requests in each period: elastic", counts[0], "small", counts[1], "in all", len(elastic), len(small))
    assert len(elastic) >= len(small)
    assert all(mine >= 0.95 * theirs for mine, theirs in zip(*counts, strict=True))


def test_where_nobody_else_wants_memory_nothing_is_lost(bundle):
    """Each starts first once: whoever comes first may have the better processor for as long as it runs."""
    (plain, _), (elastic, _) = side_by_side(bundle, 600 * MIB, MIB, {}, {"elastic": True}, seconds=SECONDS / 2)
    (again, _), (other, _) = side_by_side(bundle, 600 * MIB, MIB, {"elastic": True}, {}, seconds=SECONDS / 2)
    assert [lines[-1]["elastic"]["shrunk"] for lines in (elastic, again)] == [0, 0]
    mine, theirs = len(elastic) + len(again), len(plain) + len(other)
    print(f"requests: elastic {len(elastic)} + {len(again)}, plain {len(plain)} + {len(other)}: {mine / theirs:.3f}")
    assert mine >= 0.95 * theirs
