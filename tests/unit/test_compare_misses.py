"""benchmarks/compare/misses.py: where the time goes where a goal is missed."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.compare.figures import above_drive_ms, limits_ms
from benchmarks.compare.goals import compared
from tests.compared_cells import cell, row

PEERS = (cell("bigmoeonedge", 10.0), cell("llama.cpp", 5.0, prefill=20.0))


def page(*rows: dict[str, Any]) -> str:
    return "\n".join(compared(rows))


def test_a_miss_comes_with_its_profile_and_what_is_met_does_not():
    found = page(row(cell("ours", 20.0, prefill=62.0), *PEERS))
    assert (
        "| avx2 | S1 | 50 % | 2026-11-30 | **2.00x, missed** | **40 %, missed** | 4 %, met | 3.10x, met | 3.10x, met |"
        in found
    )
    # 50 ms a token: parts of PHASES over 64, 40 MB at 2 GB/s, what is above, 100 MB at 20
    assert "| avx2 | S1 | 50 % | 50.0 | 2.0 | 1.0 | 10.0 | 0.5 | 20.0 | 0.0 | 0.0 | 30.0 | 5.0 |" in found
    assert "where a goal of prompts is missed" not in found
    slow = page(row(cell("ours", 43.0, prefill=50.0), *PEERS))
    assert "where a goal of decoding is missed" not in slow
    # 128 tokens at 3 x 20 a second
    assert "| avx2 | S1 | 50 % | later | 2133 | 2560 | 128 | 64 | 640 | 32 | 2560 |" in slow
    assert "| first |" not in slow, "2.5 of 2"


def reading(needed: int, count: int, rate: float, probes: list[float]) -> dict[str, Any]:
    """A cell of 20 tokens a second with given MB a token and GB/s."""
    found = cell("ours", 20.0)
    decode = found["measured"]["decode"]
    experts = decode["experts"] | {"bytes_read": 64 * count * 10**6, "read_gbps": rate}
    decode |= {"needed_bytes": 64 * needed * 10**6, "experts": experts, "drive_gbps": probes}
    return found


def test_what_a_token_takes_above_the_drives_limit_is_told_apart():
    """40 MB at 1.6 GB/s are 25 ms, where the probes' 2 GB/s make 20; 4 MB of them are in vain."""
    found = reading(36, 40, 1.6, [1.8, 2.2])
    slower, in_vain, idle = (ms / 64 for ms in above_drive_ms(found))
    assert (slower, in_vain, idle) == (pytest.approx(5), pytest.approx(2), pytest.approx(25))
    assert limits_ms(found)[0] / 64 + slower + in_vain + idle == pytest.approx(50), "nothing is left out"
    assert "| 50.0 | 2.0 | 1.0 | 10.0 | 0.5 | 18.0 | 5.0 | 2.0 | 25.0 | 5.0 |" in page(row(found, *PEERS))


def test_a_drive_that_gives_more_than_its_probes_is_not_slower():
    slower, _, idle = (ms / 64 for ms in above_drive_ms(reading(40, 40, 2.5, [1.8, 2.2])))
    assert (slower, idle) == (pytest.approx(0), pytest.approx(34))


def test_in_memory_there_is_no_time_of_the_drive():
    ours = cell("ours", 20.0, "resident")
    ours["measured"]["decode"]["experts"] |= {"bytes_read": 0, "read_gbps": None}
    assert above_drive_ms(ours) is None
    found = page(row(ours, cell("llama.cpp", 40.0, "resident", prefill=20.0)))
    assert "| avx2 | S1 | all | 50.0 | 2.0 | 1.0 | 10.0 | 0.5 | 0.0 | - | - | - | 5.0 |" in found


def test_each_missed_prompt_has_its_line_and_what_its_goal_allows():
    found = page(row(cell("ours", 43.0, prefill=16.0), *PEERS))
    assert "| 50 % | later | 2133 | 8000 |" in found
    assert "| 50 % | first | 3200 | 8000 |" in found


def test_in_memory_a_row_that_loses_stands_beside_the_one_of_as_many_bits_as_the_peers():
    def resident(model: str, ours: float, touched: int) -> dict[str, Any]:
        found = cell("ours", ours, "resident", model=model)
        found["measured"]["decode"]["touched_bytes"] = 64 * touched * 10**6
        return row(found, cell("llama.cpp", 100.0, "resident", model=model))

    int8, int4 = resident("S1", 80.0, 300), resident("S1-int4", 110.0, 240)
    found = page(int8, int4)
    assert "| avx2 | S1 | 300 | 24.0 | 24.0 | 0.80x | 240 | 26.4 | 24.0 | 1.10x |" in found
    for others in ((int8,), (resident("S1", 120.0, 300), int4)):
        assert "as many bits" not in page(*others), "nothing beside it, or nothing to explain"
