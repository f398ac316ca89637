"""`benchmarks/bench_turns.py` and `policy_turns.py`: what is run in which order, and what is made of the times."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import bench_turns, policy_turns
from benchmarks.bench_turns import HERE, OTHER


def test_turns_follow_each_other_in_the_stream_and_start_over():
    assert bench_turns.cut(list(range(10)), 3, 4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]
    with pytest.raises(SystemExit, match="at least 11, got 10"):
        bench_turns.cut(list(range(10)), 3, 11)


def test_sides_swap_places_from_round_to_round():
    assert [bench_turns.order_of(n, [HERE, OTHER]) for n in range(3)] == [[HERE, OTHER], [OTHER, HERE], [HERE, OTHER]]
    assert bench_turns.order_of(1, [HERE]) == [HERE]


def turn(ttft: float, first: float, rest: float) -> dict[str, Any]:
    gaps = [first] * 2 + [rest] * 4
    return {"ttft_ms": ttft, "gap_ms": gaps, "total_ms": ttft + sum(gaps)}


def test_the_first_turn_is_only_in_the_total():
    found = bench_turns.figures([turn(9000, 90, 90), turn(100, 20, 10), turn(300, 40, 10)], 2)
    assert found == {
        "ttft_ms": 200, "first_ms": 30, "rest_ms": 10, "later_turns_ms": 180 + 420, "all_turns_ms": 9540 + 600
    }  # fmt: skip


def test_ratios_are_of_the_same_round():
    """A round in which the machine was slow for both says the same as the others."""
    runs = [
        {"side": side, "round": number, "turns": [turn(slow, slow, slow), turn(slow * ttft, slow, slow)]}
        for number, slow in enumerate((1, 10, 1))
        for side, ttft in ((HERE, 100), (OTHER, 200))
    ]
    found = bench_turns.summary(runs, 2)
    assert found["this_over_other"]["ttft_ms"] == {"median": 0.5, "low": 0.5, "high": 0.5}
    assert found["this_over_other"]["first_ms"]["median"] == 1
    assert found[HERE]["ttft_ms"] == 100
    alone = bench_turns.summary([run for run in runs if run["side"] == HERE], 2)
    assert "this_over_other" not in alone


def test_a_checkout_without_an_environment_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"\.venv/bin/python: expected the checkout's interpreter"):
        bench_turns.interpreter(tmp_path)


def test_every_turn_begins_with_another_policy():
    orders = [policy_turns.turn_order(["a", "b", "c"], n) for n in range(4)]
    assert [order[0] for order in orders] == ["a", "b", "c", "a"]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)


def test_no_two_rounds_share_a_prompt():
    ids = list(range(100))
    rounds = [policy_turns.prompts_of(ids, n, 10) for n in range(3)]
    assert rounds[1] == (list(range(20, 30)), list(range(30, 40)))
    assert len({tuple(prompt) for both in rounds for prompt in both}) == 6
    with pytest.raises(SystemExit, match="at least 102"):
        policy_turns.prompts_of(ids, 0, 51)


def row(
    setting: str, tier: int, ms: list[float], needed: int, drive: list[float], fallbacks: int = 0
) -> dict[str, Any]:
    turns = [
        {"n": 8, "ms": each, "needed_bytes": needed, "experts": {"bytes_read": 8_000_000}, "fallbacks": fallbacks,
         "phase_ms": {"trunk": 8.0, "other": 16.0}}
        for each in ms
    ]  # fmt: skip
    prompt = {"n": 128, "ms": 1000.0}
    return {"setting": setting, "tier": tier, "turns": turns, "drive_gbps": drive, "first_prompt": prompt,
            "later_prompt": prompt | {"ms": 500.0}}  # fmt: skip


def test_policies_are_set_beside_lossless_of_their_own_tier():
    rows = [
        row("lossless", 8, [200.0, 400.0], 100_000_000, [1.0, 3.0]), row("lossless", 8, [200.0, 200.0], 100_000_000, [2.0]),
        row("lossless", 4, [100.0] * 2, 0, [2.0]), row("mobile", 4, [80.0] * 2, 0, [2.0], fallbacks=2),
    ]  # fmt: skip
    eight, four, mobile = policy_turns.table(rows)
    assert (eight["tok_s"], eight["turns"], eight["over_lossless"]) == (40.0, 4, 1.0)
    assert eight["quartiles"] == [35.0, 40.0]
    assert eight["of_limit"] == 0.2, "4 x 100 MB at 2 GB/s take 200 of 1,000 ms"
    assert eight["mb_per_token"] == 1.0
    assert eight["ms_per_token"] == {"trunk": 1.0, "other": 2.0}
    assert (eight["first_prompt_tok_s"], eight["later_prompt_tok_s"]) == (128.0, 256.0)
    assert (four["over_lossless"], mobile["over_lossless"]) == (1.0, 1.25)
    assert (four["second_passes"], mobile["second_passes"]) == (0.0, 0.25)
    assert policy_turns.table(rows[3:])[0]["over_lossless"] is None


def test_what_is_asked_for_is_measured_beside_lossless():
    def asked(*words: str) -> list[tuple[str, int]]:
        args = policy_turns.parser().parse_args(["b", "--tokens", "t", "--out", "o", *words])
        return [(each.name, each.tier) for each in policy_turns.chosen(args)]

    assert asked() == [(each.name, each.tier) for each in policy_turns.SETTINGS]
    assert asked("--only", "mobile") == [("lossless", 8), ("lossless", 4), ("mobile", 4)]
    assert asked("--only", "mobile", "--tier", "4") == [("lossless", 4), ("mobile", 4)]
    with pytest.raises(SystemExit, match=r"--only fast: expected some of base-resident"):
        asked("--only", "fast")


def test_thresholds_of_hobbit_may_be_given():
    def policies(*words: str) -> list[str]:
        args = policy_turns.parser().parse_args(["b", "--tokens", "t", "--out", "o", *words])
        return [each.options["policy"] for each in policy_turns.chosen(args) if each.name.startswith("hobbit")]

    assert policies() == ["hobbit:quantiles=true,low=2"] * 2
    assert policies("--hobbit", "hobbit:t1=0.8,t2=0.9") == ["hobbit:t1=0.8,t2=0.9,low=2"] * 2
