"""Invariant 3: --memory is a ceiling for the whole process, measured from outside while it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MODEL
from outside import run_measured

from edge_runtime.base.sizes import parse_size


def run_command(bundle: Path, memory: str, *flags: str) -> list[str]:
    command = [sys.executable, "-m", "edge_runtime", "run", str(bundle), "--memory", memory, "--json", "--tier", "8"]
    prompt = (MODEL / "heldout_python.txt").read_text()[:1500]
    return [*command, "--prompt", prompt, "--max-tokens", "40", "--context", "1024", "--no-self-check", *flags]


def floor_of(bundle: Path, memory: str = "4GiB") -> int:
    """Ask `hobbit plan` for the smallest budget that fits prompt passes as long as this budget allows."""
    command = [
        sys.executable,
        "-m",
        "edge_runtime",
        "plan",
        str(bundle),
        "--memory",
        memory,
        "--json",
        "--context",
        "1024",
    ]
    done = subprocess.run([*command, "--tier", "8"], capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout)["floor_bytes"])


@pytest.mark.parametrize("extra", ["2MiB", "12MiB", "200MiB"])
def test_peak_memory_stays_under_the_budget(model_bundle, extra):
    budget = floor_of(model_bundle) + parse_size(extra)
    for _ in range(3):  # the smaller the budget, the shorter the passes, and the less scratch they need
        budget = floor_of(model_bundle, str(budget)) + parse_size(extra)
    done, peak = run_measured(run_command(model_bundle, str(budget)))
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    print(f"budget {budget >> 20} MiB, peak {peak >> 20} MiB, arena {report['memory']['arena_bytes'] >> 20} MiB")
    assert 0 < peak <= budget
    assert report["memory"]["planned_bytes"] <= report["memory"]["budget_bytes"] <= budget
    if extra == "2MiB":
        assert report["experts"]["evicted"] > 0, "the small budget must really stream"


def test_a_budget_below_the_floor_is_refused_with_the_sum(model_bundle):
    done = subprocess.run(run_command(model_bundle, "40MiB"), capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert "BudgetError" in done.stderr
    assert "trunk" in done.stderr
    assert "MiB" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def memory_cgroup():
    """A fresh memory cgroup of this machine: call with a limit, get the command prefix that runs inside it."""
    v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    is_v1 = (v1 / "memory.limit_in_bytes").exists()
    group = (v1 if is_v1 else v2) / f"hobbit-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if is_v1 else "memory.max")).write_text("max" if not is_v1 else "-1")
    except OSError as err:
        pytest.skip(f"NO MEMORY CGROUP: the limit of a real cgroup was not tested here ({err})")

    def limited(limit: int) -> list[str]:
        (group / ("memory.limit_in_bytes" if is_v1 else "memory.max")).write_text(str(limit))
        return ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]

    yield limited
    group.rmdir()


@pytest.mark.cgroup
def test_auto_keeps_within_a_real_cgroup(model_bundle, memory_cgroup):
    """With --memory auto the cgroup's limit is the ceiling, and the process is not killed for exceeding it."""
    limit = floor_of(model_bundle) + parse_size("16MiB")
    command = run_command(model_bundle, "auto")
    done = subprocess.run([*memory_cgroup(limit), *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["memory"]["budget_bytes"] <= limit
    assert report["memory"]["peak_rss_bytes"] <= limit
