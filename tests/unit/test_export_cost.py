"""The hours of docs/exporting-at-scale.md, worked by hand for one cluster."""

from __future__ import annotations

import sys

import pytest
from conftest import REPO

sys.path.insert(0, str(REPO / "tools"))

from export_cost import BUSY, HASH_RATE, Layer, bounds, layer, rates


def test_the_last_round_counts_in_full():
    """Four nodes of sixteen processors run eight tasks at a time: 58 layers are eight rounds, on one node 29."""
    cost = Layer(bytes=12e9, encoding_s=30 * 8 * BUSY, hashing_s=18)
    assert cost.task_s(8) == pytest.approx(48)
    trunk_s = 340
    for nodes, rounds in ((4, 8), (1, 29)):
        found = bounds(cost, "FP8", (nodes, 16, 8, 10))["rounds of tasks"]
        assert found * 3600 == pytest.approx(rounds * 48 + trunk_s / (nodes * 16 * BUSY))


def test_bytes_and_reference_logits_are_the_clusters_and_the_drivers():
    cost = Layer(bytes=12e9, encoding_s=200, hashing_s=18)
    found = bounds(cost, "FP8", (4, 16, 8, 2))
    assert found["storage"] * 3600 == pytest.approx((671 + 82 + 58 * 12 + 12) / 2)
    assert found["reference logits"] * 3600 == pytest.approx(1000 / 2 / BUSY)
    assert found["processors"] * 3600 == pytest.approx((58 * 218 + 340 + 1000) / (64 * BUSY))


def test_a_layer_is_what_the_format_says_and_its_cuts_are_hashed_too():
    cost = layer(8, 46.2)
    assert cost.bytes / 1e9 == pytest.approx(12.0, abs=0.05)
    assert cost.hashing_s * HASH_RATE / cost.bytes == pytest.approx(2.6, abs=0.05)
    assert cost.encoding_s + cost.hashing_s == pytest.approx(256 * 3 * 7168 * 2048 / 46.2e6)


def test_a_page_without_its_rates_is_refused():
    with pytest.raises(SystemExit, match="expected two rows"):
        rates("| from FP8, blocks of 128 x 128 | 46.2 | 46.4 |\n")
