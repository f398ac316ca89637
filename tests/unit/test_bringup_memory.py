"""A bring-up where memory is short: it goes on, and says what did not fit, and why."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.config.cgroups import MemoryGroup
from edge_runtime.lab.bringup import process
from edge_runtime.lab.bringup.bringup import Bringup, summary_lines
from edge_runtime.lab.bringup.machine import describe_machine
from edge_runtime.lab.bringup.runner import run_step
from edge_runtime.lab.bringup.steps import Step


def python(code: str) -> Step:
    return Step("it", "a step", (sys.executable, "-c", code))


@pytest.fixture(params=["memory.events", "memory.oom_control"])
def events(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the kernel counts what it killed, of both versions of cgroups."""
    path = tmp_path / request.param
    path.write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    monkeypatch.setattr(process, "memory_groups", lambda: [MemoryGroup(tmp_path)])
    return path


def test_a_step_the_kernel_killed_for_memory_did_not_fit(events: Path, tmp_path: Path):
    killed = f"open({str(events)!r}, 'w').write('oom_kill 4\\n'); import os; os.kill(os.getpid(), 9)"
    found = run_step(python(killed), tmp_path, os.environ, 60)
    assert (found["outcome"], found["did_not_fit"]) == ("failed", True)
    assert found["why"].startswith("the kernel killed 2 processes of it for want of memory")
    survived = f"open({str(events)!r}, 'w').write('oom_kill 5\\n'); import sys; sys.exit('a worker is gone')"
    assert run_step(python(survived), tmp_path, os.environ, 60)["why"] == (
        "the kernel killed 1 process of it for want of memory. a worker is gone"
    )


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        ("BudgetError: memory: needs 2.00 GiB", False),
        ("CudaMemoryError: cuMemAlloc_v2 failed", False),
        ("numpy: _ArrayMemoryError: Unable to allocate 3 GiB", False),
        ("terminate called after throwing std::bad_alloc", False),
        ("OSError: [Errno 12] Cannot allocate memory", False),
        ("BundleError: manifest.json: is missing", True),
    ],
)
def test_a_step_that_says_so_did_not_fit(said: str, fits: bool, tmp_path: Path):
    found = run_step(python(f"import sys; sys.exit({said!r})"), tmp_path, os.environ, 60)
    assert (found["outcome"], found["why"]) == ("failed", said)
    assert found.get("did_not_fit", False) != fits


def test_a_message_of_several_lines_is_the_reason_as_a_whole(tmp_path: Path):
    said = "warning: something\\nBudgetError: memory: 40 MiB is below the floor 85 MiB\\n  (trunk 7 MiB).\\n  Raise it."
    found = run_step(python(f"import sys; sys.exit('{said}')"), tmp_path, os.environ, 60)
    assert found["why"] == "BudgetError: memory: 40 MiB is below the floor 85 MiB (trunk 7 MiB). Raise it."
    assert found["did_not_fit"] is True


def test_what_did_not_fit_is_summed_up(tmp_path: Path):
    (tmp_path / "bundle").mkdir()

    def small(step: Step, out: Path, environment: Any, most_s: float) -> dict[str, Any]:
        if step.name == "bench cpu":
            return {"outcome": "failed", "why": "BudgetError: needs 2 GiB", "did_not_fit": True}
        return {"outcome": "failed", "why": "no such file"} if step.name == "plan" else {"outcome": "passed"}

    journal = Bringup(tmp_path / "bundle", tmp_path / "out").run(lambda *_: None, lambda _: None, small)
    told = [line for line in summary_lines(journal) if line.startswith("Did not fit")]
    assert told == ["Did not fit into memory: bench cpu: BudgetError: needs 2 GiB"]
    assert json.loads(journal.path.read_text())["steps"]["bench cpu"]["did_not_fit"] is True


def test_a_limit_of_a_cgroup_is_part_of_the_machine(tmp_path: Path):
    group = tmp_path / "sys/fs/cgroup/box"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{1 << 30}\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/box\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n")
    assert describe_machine(tmp_path, tmp_path)["memory"] == {"available_bytes": 4 << 30, "limit_bytes": 1 << 30}
