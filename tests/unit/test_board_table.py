"""tools/board_table.py: the tables of README.md and docs/boards.md, and the arithmetic behind them."""

from __future__ import annotations

import importlib

import pytest

from benchmarks.compare import results
from edge_runtime.config.profiles import load_profile
from tests.compared_cells import cell


@pytest.fixture(scope="module")
def tool():
    return importlib.import_module("board_table")


def test_the_tables_are_up_to_date(tool):
    assert tool.main(["--check"]) == 0, "run python tools/board_table.py"


def test_a_board_with_room_for_everything_misses_nothing(tool):
    found = tool.estimate(tool.spec_of("OLMoE-1B-7B"), load_profile("agx-orin-64gb"), 4)
    assert found.plan.num_slots == 16 * 64
    speed = found.speed
    assert speed.missed_bytes == 0
    assert speed.tok_s == pytest.approx(1 / (max(speed.memory_s, speed.cpu_s) + speed.work.other_s))


def test_what_does_not_fit_is_read_from_the_drive(tool):
    """Qwen3-30B-A3B on an Orin Nano, added up by hand from the plan's share."""
    spec, profile = tool.spec_of("Qwen3-30B-A3B"), load_profile("orin-nano-8gb")
    found = tool.estimate(spec, profile, 4)
    experts = 48 * 8 * 2_699_264  # layers x top-k x bytes of an expert at 4 bits
    missed = experts * (1 - found.plan.cache_share) ** 1.6
    assert found.speed.missed_bytes == pytest.approx(missed)
    assert found.speed.drive_s == pytest.approx(missed / 1.6e9)
    assert found.plan.planned_bytes <= 7.2 * 2**30 - 2**30


def test_the_hit_rate_is_none_without_a_cache_and_all_with_everything(tool):
    assert tool.hit_rate(0) == 0
    assert tool.hit_rate(1) == 1
    assert [round(100 * tool.hit_rate(share)) for share in (0.25, 0.5, 0.75)] == [37, 67, 89]


def test_in_memory_a_run_is_held_to_all_probes_of_the_bus(tool, tmp_path, monkeypatch):
    """4 GB/s were touched; single probes said 52 and 20."""
    monkeypatch.setattr(tool, "RESULTS", tmp_path / "compare.jsonl")
    ours, peer = cell("ours", 40.0, "resident", bus_gbps=52.0), cell("llama.cpp", 9.0, "resident", bus_gbps=20.0)
    ours["measured"] |= {"decode": ours["measured"]["decode"] | {"needed_bytes": 0}, "num_slots": 1024}
    for entry in (ours, peer):
        results.append(tool.RESULTS, entry)
    assert list(tool.measured_rows())[-1].endswith("| 0 MB | 100 MB | 360.0 | 40.0 | 11 % |")
