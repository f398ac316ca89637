"""benchmarks/compare: which probes of the memory bus the limit of a row rests on."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.compare.figures import rows
from benchmarks.compare.report import markdown
from tests.compared_cells import MACHINE, cell

NEON = MACHINE | {"isa": "neon"}


def at(minutes: int, bus: float, regime: str = "resident", side: str = "ours", **more: Any) -> dict[str, Any]:
    """A cell of 100 MB a token at 40 tokens a second: 4 GB/s. Nothing is read."""
    when = f"2026-11-30T{8 + minutes // 60:02}:{minutes % 60:02}"
    found = cell(side, 40.0, regime, bus_gbps=bus, when=when, **more)
    found["measured"]["decode"]["experts"]["bytes_read"] = 0
    return found


def share(entries: list[dict[str, Any]], regime: str) -> float:
    """What the row of this machine says of the limit."""
    asked = ("S1", regime, "C, 2 cores, avx2")
    (row,) = [row for row in rows(entries) if (row["model"], row["regime"], row["machine"]) == asked]
    return row["lossless"]["share_of_limit"]


def run() -> list[dict[str, Any]]:
    peers = [at(1, 31.0, side="llama.cpp"), at(4, 20.0, side="bigmoeonedge")]
    return [at(0, 52.0), *peers, at(5, 24.0, "50")]


def test_in_memory_the_bus_gives_the_median_of_all_probes_of_the_run():
    assert share(run(), "resident") == pytest.approx(4 / 27.5), "of 52, 31, 24 and 20"
    assert share(run()[:1], "resident") == pytest.approx(4 / 52)


def test_probes_of_other_runs_and_machines_do_not_count():
    later, elsewhere = at(36, 99.0, side="llama.cpp", model="S2"), at(2, 99.0, machine=NEON)
    assert share([*run(), later, elsewhere], "resident") == pytest.approx(4 / 27.5)
    assert share([*run(), at(35, 99.0, side="llama.cpp", model="S2")], "resident") == pytest.approx(4 / 31)


def test_a_run_ends_with_a_pause_not_with_a_length():
    steps = [at(minute, 40.0, side="llama.cpp", round=minute) for minute in (25, 45, 65)]
    assert share([at(0, 20.0), *steps], "resident") == pytest.approx(4 / 40)


def test_under_a_cap_the_probe_of_the_cell_counts():
    assert share(run(), "50") == pytest.approx(4 / 24)


def test_the_page_says_which_probes_and_which_first_prompts_are_none():
    def page(when: str) -> str:
        entries = [at(0, 20.0, "25") | {"when": when}, at(1, 20.0, "25", side="llama.cpp")]
        return " ".join(markdown(rows(entries), entries, "x.png").split())

    now, before = page("2026-11-30T08:00"), page("2026-11-30T07:00")
    assert "the median of the probes before all cells of the run" in now
    assert "†" not in now
    assert "- †: measured under a cap before 2026-11-30 07:02 UTC" in before
    assert "| 60.0 † |" in before
