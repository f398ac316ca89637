"""The native slot table, its ledger and a forecast of uses, and who is built on them.

`residency.SlotTable`, `units.UnitLedger` and `eviction.next_use.NextUse`.

`Ledger(core_tier, full_tier, core_bytes, plane_bytes, budget_bytes, max_experts)`
    Units of memory in two sizes: which are free, and which of those still hold memory of the system. Properties
    budget_bytes, max_experts, free_bytes, used_bytes, touched_bytes, num_cores, discards [(is_plane, unit)].
    core_capacity(budget), plane_capacity(budget)   most units a budget holds.
    take_core(), take_plane() -> unit; free_core(unit)
    hold_back()                 leave some bytes unused, for a table whose rule does not free the size that is wanted.
    hold_ahead(cores) -> (cores, planes)
        Count the rest of the budget as held before it is used: so many more cores, and planes. Returns all units that
        are, in the order they will be taken, which this does not change. Whoever asks takes their memory.
    inherit(before) -> whether it could: a ledger that uses nothing takes over memory of the same units as held ahead.
    free_units() -> (warm cores, cold cores, warm planes, cold planes); drain_discards() -> discards, then none.

`Table(ledger, tiers, slots, keys)`
    State of the slots. It writes three arrays of the caller: tiers uint8 [L, E] that experts are resident at, slots
    int32 [L, E] they have (-1: none), keys int64 [max_experts], layer * E + expert in each slot (-1: free).
    find(layer, tiers) -> (ready experts, ready slots, late slots, missing experts)     counts and pins.
    hit_all(layer, tiers) -> tier, or 0 and nothing happened                            counts.
    make_claim(layer, experts, tiers, prefetch, scores, top) -> slots
        Makes room and lets the slots be read into. scores(layer) -> (scores [S], scores of planes [S] or None) and
        top(layer, slot, tier) -> score are called before anything changes.
    set_ready(slot), drop(slot), unpin(slots), unpin_all(), mask(layer, experts)
    foresee(layer, ids [T, K], tiers) -> (lacking, absent experts)
        A coming layer is expected to use experts at these tiers: masks them. How many lack something, and
        those of them that are not being read, first choices first.
    reconcile(live)             drop every read that is not into one of these slots; nothing stays pinned or masked.
    keep_cores()                from now on room is made of planes alone: an expert never goes whole.
    change_budget(budget, scores, top) -> (moves of cores, moves of planes)
    start_over(budget)          forget every expert.
    is_reading(slot), planes_of(slot), resident_planes(slot) (-1: not resident), expert_in(slot), lacking_bytes(slots)
    num_slots, num_resident, num_pinned, num_reading; tally() -> see src/bindings.cpp

`UseForecast(num_layers, num_experts, top_k, half_life, memory)`
    When experts are expected back. Keys int64 are layer * E + expert.
    begin_pass(num_tokens)
    use(keys [n])                    uses of one layer by the pass's one token.
    use_in_order(layer, tiers [E], experts int32 [T, K])   by T tokens; none where the tier is 0.
    score(keys [S], layer, scores)   fills float64 [S]; the entry of a key of -1 is 0.

Every call is whole: an exception, even an interrupt, comes before or after it. For one thread.
"""

from __future__ import annotations

try:
    from edge_runtime.experts._native import Ledger, Table, UseForecast
except ImportError as err:
    from edge_runtime.base.errors import DeviceError

    raise DeviceError(
        "edge_runtime.experts: the native extension '_native' is missing or does not load "
        f"({err}). Build it with: pip install -e . (needs a C++17 compiler)"
    ) from err

__all__ = ["Ledger", "Table", "UseForecast"]
