"""`benchmarks/recorded_routing.py`: what rules read and a predictor foresees, on recordings made up for it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import recorded_routing as recorded
from edge_runtime.lab.simulator.imported import write_trace
from edge_runtime.lab.simulator.route_trace import read_recording
from edge_runtime.lab.simulator.trace import Trace

REPO = Path(__file__).parents[2]
LAYERS, EXPERTS, TOP_K = 3, 16, 2


def recording(folder: Path, choose, tokens: int = 60) -> Path:
    """A recording; `choose(random, layer, before)` says the experts of a layer, given those of the one before it."""
    random = np.random.default_rng(5)
    lines = ["# route_trace v1", f"# model=toy n_layer={LAYERS} n_expert={EXPERTS} n_expert_used={TOP_K}"]
    lines.append("turn,phase,step,layer,slot,expert,weight")
    for step in range(tokens):
        before: list[int] = []
        for layer in range(LAYERS):
            before = [int(one) for one in choose(random, layer, before)]
            lines += [f"0,1,{step},{layer},{slot},{one},0.5" for slot, one in enumerate(before)]
    path = folder / "r.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def traced(folder: Path, choose) -> Trace:
    write_trace(read_recording(recording(folder, choose)), folder / "t")
    return Trace(folder / "t")


def by_chance(random, layer, before):
    return random.choice(EXPERTS, TOP_K, replace=False)


def following(random, layer, before):
    return [(one + 1) % EXPERTS for one in before] if before else by_chance(random, layer, before)


def test_what_follows_is_predicted_and_chance_is_not(tmp_path):
    sure, lucky = (
        recorded.hits_of_predictions(traced(tmp_path, following)),
        recorded.hits_of_predictions(traced(tmp_path, by_chance)),
    )
    assert sure["statistical"] > 0.8, "but for pairs that were not seen yet"
    assert sure["token_before"] < 0.4, "the first layer's experts are drawn anew for every token"
    assert lucky["statistical"] < 0.4
    assert lucky["token_before"] == pytest.approx(TOP_K / EXPERTS, abs=0.1)


def test_predictions_use_nothing_of_what_comes(tmp_path):
    """Two recordings that differ in the last token only are predicted alike up to its second layer."""

    calls = iter(range(1000))

    def other_at_the_end(random, layer, before):
        found = following(random, layer, before)
        return found if next(calls) < 59 * LAYERS + 1 else [0, 1]

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a = [one.predictions for one in recorded.Predicted(traced(tmp_path / "a", following))]
    b = [one.predictions for one in recorded.Predicted(traced(tmp_path / "b", other_at_the_end))]
    assert all(np.array_equal(x, y) for x, y in zip(a[:-1], b[:-1], strict=True))
    assert np.array_equal(a[-1][0], b[-1][0])
    assert a[-1][0, 0, 0, 0] == TOP_K, "something was predicted there"


def test_reading_ahead_avoids_misses_where_it_predicts(tmp_path):
    sure = recorded.reading_ahead(traced(tmp_path, following), 50)
    lucky = recorded.reading_ahead(traced(tmp_path, by_chance), 50)
    assert sure["used"] / sure["issued"] > 2 * lucky["used"] / lucky["issued"]
    assert sure["misses"] < 0.7 * sure["misses_without"]
    assert lucky["bytes_over_without"] > sure["bytes_over_without"] >= 1


def test_a_report_has_every_rule_and_size(tmp_path, capsys):
    out = tmp_path / "r.json"
    assert recorded.main([str(recording(tmp_path, following)), "--out", str(out)]) == 0
    said = json.loads(out.read_text())
    (one,) = said["recordings"]
    assert (one["tokens"], one["layers"], one["experts"], one["top_k"]) == (60, LAYERS, EXPERTS, TOP_K)
    assert set(one["over_belady"]) == {str(size) for size in recorded.SIZES}
    for factors in one["over_belady"].values():
        assert set(factors) == set(recorded.RULES)
        assert min(factors.values()) >= 1, "nothing beats the optimum"
    expected = (one["over_belady"]["15"]["lru"] * one["over_belady"]["25"]["lru"]) ** 0.5
    assert said["geometric_means"]["15 and 25"]["lru"] == pytest.approx(expected, abs=1e-4)
    assert "geometric" not in capsys.readouterr().err


def test_the_decision_states_what_was_counted():
    """ADR 196 and its source: every factor and every mean, as the file has them."""
    counted = json.loads((REPO / "benchmarks/results/recorded_routing.json").read_text())
    (page,) = (REPO / "docs/adr").glob("0196-*.md")
    stated = {
        cells[0]: cells[1:]
        for line in page.read_text().splitlines()
        if len(cells := [cell.strip(" *") for cell in line.strip("|").split("|")]) == 5
    }
    rules = stated[""]
    for one in counted["recordings"]:
        (name,) = [name for name in stated if name and one["model"].startswith(name)]
        for rule, text in zip(rules, stated[name], strict=True):
            factors = [one["over_belady"][size][rule] for size in ("15", "25", "50")]
            assert text == " / ".join(f"{factor:.2f}" for factor in factors), (name, rule)
    means = counted["geometric_means"]["15 and 25"]
    assert stated["geometric mean at 15 and 25 %"] == [f"{means[rule]:.3f}" for rule in rules]
    assert re.search(rf"\b{means['next-use']:.3f}\b", (REPO / "docs/policies-measured.md").read_text())


def test_the_page_states_the_rules_as_counted():
    """The table of rules on the bundled model is that of the file `benchmarks/eviction_table.py` wrote."""
    points = json.loads((REPO / "benchmarks/results/eviction_table.json").read_text())["points"]
    page = (REPO / "docs/policies-measured.md").read_text().partition("## Eviction against Belady")[2]
    lines = [line for line in page.splitlines() if line.startswith("|")][: 2 + len(points)]
    head, _, *rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]
    for row, point in zip(rows, points, strict=True):
        assert row[0].startswith(point["policy"].partition(":")[0])
        assert row[1] == f"{point['percent']} %"
        for rule, text in zip(head[2:], row[2:], strict=True):
            assert text == " to ".join(f"{factor:.2f}" for factor in point["over_belady"][rule]), (row[:2], rule)
