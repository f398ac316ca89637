"""Units of two sizes seldom change theirs: a page that changes is one the system zeroes, in a huge page that is broken."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.base.arrays import U8
from edge_runtime.base.sizes import MIB
from edge_runtime.experts.eviction import RuleContext, create_rule
from edge_runtime.experts.residency import SlotTable
from edge_runtime.experts.units import UnitLedger, UnitSizes

L, E, TOP_K, TOKENS = 4, 64, 6, 200
LARGE, SMALL = UnitSizes(2, 4, 3 * MIB // 2, MIB), UnitSizes(2, 4, 12 << 10, 8 << 10)
SHARES, LOW = [0.25, 0.5], [0.15, 0.3]


def table_of(sizes: UnitSizes, budget: int, rule: str = "next-use") -> SlotTable:
    context = RuleContext(
        num_layers=L, num_experts=E, tier_bytes={2: 3, 4: 5}, full_tier=4, top_k=TOP_K,
        capacity=budget // sizes.full_bytes, calibration=None, price=lambda: 1.0,
    )  # fmt: skip
    ledger = UnitLedger(sizes, budget, L * E)
    return SlotTable(ledger, num_layers=L, num_experts=E, rule=create_rule(rule, context))


def read_ahead(table: SlotTable, layer: int, wanted: U8, used: U8, rng: np.random.Generator) -> None:
    """Read what is expected; half of what turns out to be in vain is called back in time."""
    _, absent = table.mask_predicted(layer, np.flatnonzero(wanted)[None].astype(np.int32), wanted)
    slots = [slot for expert in absent for slot in table.claim(layer, [expert], wanted, prefetch=True)]
    for slot in slots:
        if not used[table.expert_in(slot)] and rng.random() < 0.5:
            table.drop(slot)
        else:
            table.set_ready(slot)


def serve(table: SlotTable, layer: int, tiers: U8) -> None:
    table.note_use(layer, tiers, None)
    table.serve_instantly(layer, tiers, lambda slots: [table.set_ready(one) for one in slots] and None)


def changes_a_token(table: SlotTable, low: float, seed: int) -> float:
    """Decode with skewed routing, `low` of the uses at two bits, and return units that changed their size, a token."""
    rng = np.random.default_rng(seed)
    odds = np.arange(1, E + 1) ** -0.7
    changed = 0
    for _ in range(TOKENS):
        table.unpin_all()
        for layer in range(L):
            used, wanted = np.zeros(E, np.uint8), np.zeros(E, np.uint8)
            chosen = rng.choice(E, TOP_K, replace=False, p=np.roll(odds, 16 * layer) / odds.sum())
            used[chosen] = np.where(rng.random(TOP_K) < low, 2, 4)
            right = chosen[rng.random(TOP_K) < 0.8]
            wanted[right] = np.where(rng.random(len(right)) < 0.8, used[right], 6 - used[right])
            wanted[rng.integers(E, size=TOP_K - len(right))] = 4
            read_ahead(table, layer, wanted, used, rng)
            serve(table, layer, used)
            changed += len(table.ledger.drain_discards())
            assert table.ledger.touched_bytes <= table.ledger.budget_bytes
    return changed / TOKENS


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("low", LOW)
def test_large_units_keep_their_size_while_the_mix_stays(share, low):
    table = table_of(LARGE, int(L * E * LARGE.full_bytes * share))
    changes_a_token(table, low, 0)
    assert changes_a_token(table, low, 1) < 0.03
    assert table.ledger.free_bytes < 0.04 * table.ledger.budget_bytes, "and little is left unused for that"


def test_units_smaller_than_huge_pages_change_theirs():
    table = table_of(SMALL, int(L * E * SMALL.full_bytes * 0.25))
    changes_a_token(table, 0.3, 0)
    assert changes_a_token(table, 0.3, 1) > 0.1, "or this file shows nothing"


def test_a_mix_that_turns_gets_its_memory():
    """Kept is a bounded part: at two bits alone a budget holds what it holds of cores, but for that part."""
    budget = 40 * LARGE.full_bytes
    table = table_of(LARGE, budget, "lru")
    for tier in (4, 2):
        for layer in range(L):
            for expert in range(E):
                tiers = np.zeros(E, np.uint8)
                tiers[expert] = tier
                table.unpin_all()
                serve(table, layer, tiers)
    assert table.num_resident >= (budget - budget // 32) // LARGE.core_bytes - 1


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_whatever_is_asked_for_is_served_within_the_budget(data):
    least = TOP_K * LARGE.full_bytes  # what a layer uses at once
    budget = least + data.draw(st.integers(0, 40 * MIB))
    table = table_of(LARGE, budget, data.draw(st.sampled_from(["lru", "lfru", "next-use"])))
    for _ in range(data.draw(st.integers(1, 14))):
        table.unpin_all()
        layer = data.draw(st.integers(0, L - 1))
        asked = data.draw(st.dictionaries(st.integers(0, E - 1), st.sampled_from([2, 4]), min_size=1, max_size=TOP_K))
        tiers = np.zeros(E, np.uint8)
        tiers[[*asked]] = [*asked.values()]
        if data.draw(st.booleans()):
            read_ahead(table, layer, tiers, np.zeros(E, np.uint8), np.random.default_rng(0))
        serve(table, layer, tiers)
        assert (table.resident_tiers(layer) >= tiers).all()
        assert max(table.ledger.used_bytes, table.ledger.touched_bytes) <= table.ledger.budget_bytes
        if data.draw(st.booleans()):
            table.unpin_all()
            table.resize(least + data.draw(st.integers(0, 40 * MIB)))
            assert max(table.ledger.used_bytes, table.ledger.touched_bytes) <= table.ledger.budget_bytes
