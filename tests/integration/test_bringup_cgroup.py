"""`hobbit bringup` in real memory cgroups: it ends in time, leaves one file, and says what did not fit."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from memory_groups import MemoryGroup
from synthetic import qwen3_config, write_qwen3

from edge_runtime.base.sizes import GIB, MIB

pytestmark = [pytest.mark.system, pytest.mark.cgroup]
MINUTES = 10.0
ENDED = {"passed", "failed", "not available", "cut short", "not finished", "not reached"}
BENCH = "bench cpu"


def bring_up(bundle: Path, out: Path, limit: int) -> tuple[dict[str, Any], str, int]:
    """Bring up inside a limit; return the file, what was printed and how often the kernel killed."""
    command = [sys.executable, "-m", "edge_runtime", "bringup", str(bundle), "--out", str(out)]
    start = time.monotonic()
    with MemoryGroup(limit) as group:
        done = subprocess.run(
            [*group.prefix, *command, "--minutes", f"{MINUTES:g}"], capture_output=True, text=True, check=False
        )
        kills = group.kills()
    took = time.monotonic() - start
    print(done.stderr, done.stdout, f"{took:.0f} s, {kills} killed", sep="\n")
    assert done.returncode == 0, done.stderr[-2000:]
    assert took <= 60 * MINUTES + 30, "the whole keeps to its time; the rest is starting and ending"
    found = json.loads((out / "hobbit-bringup.json").read_text())
    assert found["machine"]["memory"]["limit_bytes"] == limit
    assert {step["outcome"] for step in found["steps"].values()} <= ENDED
    return found, done.stdout, kills


def size_of(bundle: Path) -> int:
    return sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())


@pytest.mark.parametrize("gib", [2, 1])
def test_the_demo_is_brought_up(model_bundle: Path, tmp_path: Path, gib: int):
    found, said, kills = bring_up(model_bundle, tmp_path / "out", gib * GIB)
    assert {name: found["steps"][name]["outcome"] for name in ("doctor", "demo", "verify", "plan", BENCH)} == dict.fromkeys(
        ("doctor", "demo", "verify", "plan", BENCH), "passed"
    )  # fmt: skip
    assert kills == 0, "nothing took more than there was"
    assert "Did not fit" not in said


@pytest.fixture(scope="module")
def large_bundle(tmp_path_factory: pytest.TempPathFactory, exported) -> Path:
    """Experts of more than 2 GiB over a trunk of a few MiB."""
    config = qwen3_config(1024, 640, 32, 36, vocab_size=512)
    return exported(write_qwen3(tmp_path_factory.mktemp("large") / "large", config), "--tiers", "8", "--trunk", "int8")


@pytest.mark.parametrize("gib", [2, 1])
def test_a_bundle_larger_than_the_limit_is_brought_up(large_bundle: Path, tmp_path: Path, gib: int):
    assert size_of(large_bundle) > gib * GIB
    found, _, kills = bring_up(large_bundle, tmp_path / "out", gib * GIB)
    assert kills == 0
    report = found["steps"][BENCH]["json"]
    assert report["experts"]["evicted"] > 0, "more was asked for than fits"
    assert report["memory"]["peak_rss_bytes"] <= gib * GIB


def test_what_does_not_fit_is_said(model_bundle: Path, tmp_path: Path):
    found, said, kills = bring_up(model_bundle, tmp_path / "out", 100 * MIB)
    steps = {name for name, step in found["steps"].items() if step.get("did_not_fit")}
    assert BENCH in steps
    for name in steps:
        assert f"Did not fit into memory: {name}: " in said
    assert kills == 0 or any("the kernel killed" in found["steps"][name]["why"] for name in steps)
