"""Threads of the native code: where they run, and what is said where the system gives fewer than asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.backends.cpu.kernels import ExpertEncoder, Team, processors_by_size

LIMITED = """
import resource, sys
from edge_runtime.base.errors import DeviceError
{imports}
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {room}, used + {room}))
try:
    {make}
except DeviceError as err:
    print(err)
"""


def limited(imports: str, make: str, room: int) -> str:
    """Run in a process that has no address space left for many stacks; return what it said."""
    code = LIMITED.format(imports=imports, make=make, room=room)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


def test_threads_that_the_system_does_not_give_are_an_error_and_no_abort():
    said = limited("from edge_runtime.backends.cpu.kernels import make_team", "make_team(200)", 100 << 20)
    assert said.startswith("threads: expected 200, the system gave ")
    assert "raise the limit on threads (ulimit -u; TasksMax= of a service)" in said


READER = "from edge_runtime.experts.drive import DriveReader"


def test_a_reader_goes_on_with_the_threads_it_gets_and_says_so():
    said = limited(READER, "d = DriveReader(200, False, False); print(d.method); print(d.close(60))", 100 << 20)
    assert "of 200: " in said
    assert said.startswith("threads (")
    assert said.endswith("True\n"), "those it got end with it"


def cpus(root: Path, **capacity: int) -> str:
    for name, value in capacity.items():
        (root / name).mkdir()
        (root / name / "cpu_capacity").write_text(f"{value}\n")
    return str(root)


def test_the_largest_processors_come_first(tmp_path):
    """As on an RK3588, whose small ones are numbered first; the others keep their order."""
    allowed = sorted(os.sched_getaffinity(0))
    last = allowed[-1]
    assert processors_by_size(cpus(tmp_path)) == allowed, "nothing is said: they are alike"
    root = cpus(tmp_path, **{f"cpu{number}": 1024 if number == last else 414 for number in allowed})
    assert processors_by_size(root) == [last, *allowed[:-1]]
    (tmp_path / f"cpu{last}/cpu_capacity").write_text("nonsense")
    assert processors_by_size(root) == [*allowed[:-1], last]


def threads() -> dict[str, str]:
    """The processors of each thread of this process."""
    return {
        path.parent.name: path.read_text().partition("Cpus_allowed_list:")[2].split()[0]
        for path in Path("/proc/self/task").glob("*/status")
    }


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor: no worker is bound")
def test_each_worker_has_a_processor_of_its_own_and_the_caller_the_first():
    before, order = threads(), processors_by_size()
    team = Team(2)
    after = threads()
    (worker,) = after.keys() - before.keys()
    assert after[worker] == str(order[1])
    assert {name: after[name] for name in before} == before, "the caller is bound to none"
    del team


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor: no worker is bound")
def test_a_worker_leaves_the_processor_that_the_caller_has_come_to():
    """Else the caller computes alone, for as long as the scheduler leaves it there."""
    before, allowed, (first, second) = threads(), os.sched_getaffinity(0), processors_by_size()[:2]
    encoder = ExpertEncoder(0, 0, 32, 32, 1, threads=2)
    (worker,) = threads().keys() - before.keys()
    rows, seen = np.ones((32, 32), np.float32), []
    try:
        for caller in (first, second, first, second):
            os.sched_setaffinity(0, {caller})
            encoder.add_rows(0, 0, rows, "f32")
            encoder.reset(0, 0)
            seen.append(threads()[worker])
    finally:
        os.sched_setaffinity(0, allowed)
    assert seen == [str(second), str(first)] * 2


def test_more_threads_than_processors_are_bound_to_none():
    before, count = threads(), len(os.sched_getaffinity(0)) + 1
    team = Team(count)
    after = threads()
    assert {after[name] for name in after.keys() - before.keys()} == {before[str(os.getpid())]}
    del team
