"""SlotTable: never more residents than slots, the pinned stay, counters add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.eviction import RuleContext, create_rule
from edge_runtime.experts.residency import SlotTable
from edge_runtime.experts.units import UnitLedger, UnitSizes

L, E, TIER = 3, 6, 8


class Counted(SlotTable):
    """A table that says what it counted."""

    @property
    def counters(self) -> ExpertCounters:
        counters = ExpertCounters()
        self.count_into(counters)
        return counters


def make(slots: int, rule: str = "lru") -> Counted:
    eviction = create_rule(rule, RuleContext(num_layers=L, num_experts=E, tier_bytes={8: 1}, full_tier=8))
    ledger = UnitLedger(UnitSizes(TIER, TIER, 1), slots, L * E)
    return Counted(ledger, num_layers=L, num_experts=E, rule=eviction)


def ask(table: SlotTable, layer: int, *experts: int):
    tiers = np.zeros(E, np.uint8)
    tiers[list(experts)] = TIER
    return table.lookup(layer, tiers)


WANTED = np.full(E, TIER, np.uint8)


def load(table: SlotTable, layer: int, *experts: int) -> list[int]:
    slots = table.claim(layer, list(experts), WANTED)
    for slot in slots:
        table.set_ready(slot)
    return slots


def test_miss_then_late_then_hit():
    table = make(4)
    assert ask(table, 1, 2, 5).missing == [2, 5]
    slots = table.claim(1, [2, 5], WANTED)
    assert table.num_reading == 2
    assert ask(table, 1, 2).late_slots == [slots[0]]
    assert table.resident_tiers(1).tolist() == [0] * E
    table.set_ready(slots[0])
    found = ask(table, 1, 2, 3)
    assert found.ready_experts == [2]
    assert found.ready_slots == [slots[0]]
    assert found.missing == [3]
    assert table.experts_in(slots) == [2, 5]
    assert table.resident_tiers(1).tolist() == [0, 0, TIER, 0, 0, 0]
    assert (table.counters.hits, table.counters.late, table.counters.misses, table.counters.lookups) == (1, 1, 3, 5)
    assert table.counters.by_tier[8] == 5


def test_tiers_seen_from_outside_cannot_be_written():
    table = make(2)
    with pytest.raises(ValueError, match="read-only"):
        table.resident_tiers(0)[0] = 8


def test_the_pinned_are_never_evicted():
    table = make(2)
    ask(table, 0, 0, 1)
    slots = load(table, 0, 0, 1)
    assert table.claim(1, [3], WANTED) == []
    table.unpin(slots[:1])
    assert table.claim(1, [3, 4], WANTED) == slots[:1]
    assert table.counters.evicted == 1
    assert table.slots_of(0).tolist()[:2] == [-1, slots[1]]


def test_the_least_recently_used_goes_first():
    table = make(3)
    for expert in (0, 1, 2):
        ask(table, 0, expert)
        load(table, 0, expert)
    ask(table, 0, 0)
    table.unpin_all()
    table.claim(1, [5], WANTED)
    assert table.resident_tiers(0).tolist()[:3] == [TIER, 0, TIER]


def test_a_dropped_read_frees_its_slot():
    table = make(1)
    (slot,) = table.claim(0, [4], WANTED)
    table.drop(slot)
    assert (table.num_reading, table.num_pinned, table.num_resident) == (0, 0, 0)
    assert table.claim(0, [4], WANTED) == [slot]


def test_what_a_layer_is_predicted_to_use_stays_and_what_it_lacks_is_named_first_choices_first():
    table = make(4)
    ask(table, 1, 0, 4)
    load(table, 1, 0, 4)
    table.unpin_all()
    table.claim(1, [5], WANTED, prefetch=True)
    tiers = np.zeros(E, np.uint8)
    tiers[[0, 1, 2, 3, 5]] = TIER
    tiers[2] = 0  # chosen by the router, and not used
    lacking, absent = table.mask_predicted(1, np.array([[3, 5, 2], [0, 3, 1]], np.int32), tiers)
    assert (lacking, absent) == (3, [3, 1]), "5 is being read; 1 is the last token's last choice"
    load(table, 0, 1, 2)  # one slot is free, so one expert has to go
    assert table.resident_tiers(1).tolist() == [TIER, 0, 0, 0, 0, 0], "0 is masked, 4 is not"
    with pytest.raises(IndexError, match="no expert 6"):
        table.mask_predicted(1, np.array([[6]], np.int32), tiers)


def test_the_fate_of_prefetches_is_counted():
    table = make(3)
    used, late, wasted = table.claim(0, [0, 1, 2], WANTED, prefetch=True)
    table.set_ready(used)
    table.set_ready(wasted)
    ask(table, 0, 0, 1)
    ask(table, 0, 0)
    table.claim(1, [5], WANTED)
    assert (table.counters.prefetch_used, table.counters.prefetch_late, table.counters.prefetch_wasted) == (1, 1, 1)
    assert late in table.slots_of(0)


def test_shrinking_keeps_the_best_and_says_what_to_move():
    table = make(4)
    for expert in (0, 1, 2, 3):
        ask(table, 0, expert)
        load(table, 0, expert)
    table.unpin_all()
    moves = table.resize(2).cores
    assert table.num_slots == 2
    assert np.flatnonzero(table.resident_tiers(0)).tolist() == [2, 3]
    assert sorted(table.slots_of(0)[[2, 3]].tolist()) == [0, 1]
    assert sorted(source for source, _ in moves) == [2, 3]
    assert table.resize(3) == ([], [])
    assert load(table, 1, 1) == [2]
    with pytest.raises(RuntimeError, match="pinned"):
        table.resize(1)


@settings(max_examples=150, deadline=None)
@given(
    slots=st.integers(1, 8),
    rule=st.sampled_from(["lru", "lcu"]),
    steps=st.lists(st.tuples(st.integers(0, L - 1), st.sets(st.integers(0, E - 1)), st.integers(0, 7)), max_size=30),
)
def test_invariants(slots, rule, steps):
    table = make(slots, rule)
    asked = 0
    for layer, experts, action in steps:
        found = ask(table, layer, *experts)
        asked += len(experts)
        claimed = table.claim(layer, found.missing, WANTED)
        assert len(claimed) <= slots
        assert table.slots_of(layer)[found.ready_experts].tolist() == found.ready_slots, "a pinned expert lost its slot"
        assert table.experts_in(found.ready_slots) == found.ready_experts
        for i, slot in enumerate(claimed):
            table.drop(slot) if i == action else table.set_ready(slot)
        table.unpin_all()
        if action == 5:
            slots = 1 + (slots + len(experts)) % 8
            table.resize(slots)
        resident = sum(int((table.resident_tiers(i) > 0).sum()) for i in range(L))
        assert resident == table.num_resident <= slots
        held = [s for i in range(L) for s in table.slots_of(i).tolist() if s >= 0]
        assert len(held) == len(set(held)) == resident
    assert table.counters.hits + table.counters.late + table.counters.misses == table.counters.lookups == asked
