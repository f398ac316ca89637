"""A memory cgroup of a part of the bundle: `--memory auto` finishes, is not killed, and uses what it was given.

85 % of the limit has to be in use. `make memory-check` takes a bundle of 1.5 GiB and 20 runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from memory_groups import MemoryGroup
from synthetic import qwen3_config, write_qwen3

RUNS, LAYERS = int(os.environ.get("HOBBIT_X_RUNS", "1")), int(os.environ.get("HOBBIT_X_LAYERS", "8"))
TEXT = "".join(chr(33 + i) for i in range(94)) + "".join(chr(0x80 + 37 * i) for i in range(50))
"""Bytes of nearly every value, each a token, so that most experts are asked for: what nobody asks for is not in memory.
"""
LEAST_USED = 0.85


@pytest.fixture(scope="module")
def large_bundle(tmp_path_factory, exported) -> Path:
    """Half a GiB of experts over a trunk of a few MiB, so that a quarter of it is above the process's floor."""
    config = qwen3_config(1024, 640, 32, LAYERS, vocab_size=512)
    return exported(write_qwen3(tmp_path_factory.mktemp("large") / "large", config), "--tiers", "8", "--trunk", "int8")


def size_of(bundle: Path) -> int:
    return sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.cgroup
@pytest.mark.parametrize("share", [60, 40, 25])
def test_auto_uses_what_the_cgroup_gives(share, large_bundle):
    command = [sys.executable, "-m", "edge_runtime", "run", str(large_bundle), "--json", "--prompt", TEXT]
    command += [
        "--max-tokens",
        "48",
        "--context",
        "256",
        "--ignore-eos",
        "--no-self-check",
        "--temperature",
        "1",
        "--seed",
        "1",
    ]
    limit = size_of(large_bundle) * share // 100
    for _ in range(RUNS):
        with MemoryGroup(limit) as group:
            done = subprocess.run([*group.prefix, *command], capture_output=True, text=True, check=False)
            kills = group.kills()
        assert (done.returncode, kills) == (0, 0), done.stderr[-2000:]
        report = json.loads(done.stdout)
        memory = report["memory"]
        used = memory["peak_rss_bytes"] / limit
        print(f"{share} %: limit {limit >> 20} MiB, budget {memory['budget_bytes'] >> 20}, peak {100 * used:.1f} %")
        assert report["experts"]["evicted"] > 0, "more was asked for than fits"
        assert 0.97 * limit <= memory["budget_bytes"] <= limit
        assert LEAST_USED <= used <= 1
