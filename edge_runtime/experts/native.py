"""The native slot table, its ledger, a forecast of uses and reads into slots, and who is built on them.

`residency.SlotTable`, `units.UnitLedger`, `eviction.next_use.NextUse` and `direct_reads.DirectReads`.

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
    serve_at_once(layer, tiers, rule, finish=None) -> how many found no room
        Does what `LayerStream` does over reads that are over when somebody looks, see src/at_once.hpp. A rule as
        `SlotReads` takes it. finish(slots) takes slots as read, makes each ready and drains discards; None: that is
        done.
    set_ready(slot), drop(slot), unpin(slots), unpin_all(), mask(layer, experts)
    mask_predicted(layer, ids [T, K], tiers) -> (lacking, absent experts)
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

`SlotReads(table, ledger, drive, memory, core_segments, bounds_s)`
    Reads into claimed slots through a `DriveReader`; see `direct_reads.DirectReads`. `memory` is an `ExpertMemory`.
    A rule is a `UseForecast`, or (scores, top) as `make_claim` calls them. bounds_s: those of `tally`.
    start(layer, experts, tiers, priority, rule) -> slots; prefetch_predicted(layer, ids, tiers, rule) -> lacking
    cancel_stale(layer, tiers), promote(slot), memory_moved(), num_in_flight, slots_in_flight()
    collect(timeout_s) -> [(slot, layer, expert, started_ns, elapsed_ns, fault, first, last, detail)]
        Slots that are ready, or failed: `fault` and `detail` are the drive reader's, first and last its segments.
    abort(timeout_s)            cancel or await all; what does not come back in time keeps its slot.
    tally() -> (reads by their time, nanoseconds of all). in_order: for tests, every read is over when somebody looks.

`TokenLayer(reads, forecast, router, compute, top_k, tier, sparse, has_shared, logit_bias, out)`
    The layers of one token; see `token_layers.TokenLayers`. forecast: None where the rule is another. `router` and
    `compute` have `port()`: what native code calls them by. sparse: numbers of the layers with experts; has_shared: of
    every layer; logit_bias float32 [S, E] or None. out float32 [1, D]: what a layer's experts give, and its input.
    begin_pass(frame, token int32 [1], reads_ahead, depth, evicts, collects, notes_residents, uses int64 [L, E] or
               None, read_timeout_s, beside, decider)
        beside: a `Table` that `run` takes through the same requests without reads ahead, and shows to decisions, or
        None. decider: decides in `run`, `port()` says how it is asked; None: layers use what their router chose.
    serve(layer, ids [1, K], weights [1, K], tiers [E], reads_ahead, rule, note_use, ahead, looks_later)
        A layer whose dense part ran, for what was decided. Calls note_use(), and ahead(state [1, D] or None) if it is
        not None. Returns what `run` does.
    run(layer, has_input) -> 0: served. 1: a read it waited for failed. 2: none finished in time. 3: served, but other
        reads failed. Unless it was served, all was released.
    look_first(reads) -> experts the first layer may use and lacks, by the token's embedding; before any layer.
    chosen() -> experts that the router of the last layer chose
    failed() -> (reads that failed since it was asked, which of them was waited for, how many were under way when the
        time was over)
    end_pass() -> nanoseconds of the trunk, of experts, and of waiting for reads
    changes() -> (substituted, skipped, changed, [(tier, substituted)]) by decisions of `run` since it was asked

Every call is whole: an exception, even an interrupt, comes before or after it. For one thread.
"""

from __future__ import annotations

try:
    from edge_runtime.experts._native import Ledger, SlotReads, Table, TokenLayer, UseForecast
except ImportError as err:
    from edge_runtime.base.errors import DeviceError, missing_extension

    raise DeviceError(missing_extension("edge_runtime.experts", err)) from err

__all__ = ["Ledger", "SlotReads", "Table", "TokenLayer", "UseForecast"]
