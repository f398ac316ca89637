"""Reads into slots in native code: what `SlotReader` does, call by call, over the same files."""

from __future__ import annotations

import ctypes
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import interrupts
import numpy as np
import pytest
from expert_files import FailingOps, damage, on_disk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patience import PATIENCE_S
from stores import InOrder

import edge_runtime.experts
from edge_runtime.backends.cpu.space import HostSpace
from edge_runtime.base.errors import ExpertReadError
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.counters import READ_BOUNDS_S
from edge_runtime.experts.direct_reads import DirectReads
from edge_runtime.experts.eviction import RuleContext, create_rule
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.store.base import Priority
from edge_runtime.experts.store.file_store import FileExpertStore
from edge_runtime.experts.units import UnitLedger, UnitSizes

L, E = 2, 4
FOLDER = str(Path(edge_runtime.experts.__file__).parent)
UNTIMED = ("read_busy_ns", "stall_ns", "read_ns", "read_buckets")


def make(
    bundle: Bundle, slots: int, min_tier: int, rule: str = "next-use", *, native: bool = True, in_order: bool = True,
    ops: FailingOps | None = None, wait_s: float = PATIENCE_S, io_threads: int = 8,
) -> ExpertCache:  # fmt: skip
    store: Any = FileExpertStore(bundle, 8, part_bytes=4096, ops=ops, io_threads=io_threads, read_timeout_s=wait_s)
    sizes = UnitSizes.of(bundle.manifest.layout, 8, min_tier)
    ledger = UnitLedger(sizes, slots * sizes.full_bytes, L * E)
    context = RuleContext(num_layers=L, num_experts=E, tier_bytes={4: 3, 6: 4, 8: 5}, full_tier=8, top_k=2)
    residents = Residents(ledger, create_rule(rule, context), num_layers=L, num_experts=E)
    memory = ExpertMemory(HostSpace(), ledger, block_bytes=3 * sizes.core_bytes)
    cache = ExpertCache(residents, memory, store if native else InOrder(store), read_timeout_s=wait_s)
    assert isinstance(cache.pool.reader, DirectReads) == native
    if native and in_order:
        cache.pool.reader.native.in_order = True
    return cache


def wanted(tiers: dict[int, int]) -> np.ndarray:
    found = np.zeros(E, np.uint8)
    for expert, tier in tiers.items():
        found[expert] = tier
    return found


def serve(cache: ExpertCache, bundle: Bundle, layer: int, tiers: np.ndarray) -> list[tuple[int, int]]:
    """Stream a layer and check the bytes of every segment served."""
    served = []
    header = bundle.expert_header(layer, 8)
    for batch in cache.stream(layer, tiers):
        for expert, addresses in zip(batch.experts.tolist(), batch.segments.tolist(), strict=True):
            record, at = on_disk(bundle, layer, expert, 8), 0
            for address, size in zip(addresses[: batch.tier // 2], header.segment_bytes, strict=False):
                assert ctypes.string_at(address, size) == record[at : at + size]
                at += size
            served.append((expert, batch.tier))
    return sorted(served)


def state(cache: ExpertCache) -> tuple[Any, ...]:
    table, ledger = cache.residents.table, cache.residents.ledger
    counters = asdict(cache.counters)
    counts = {name: value for name, value in counters.items() if name not in UNTIMED} | {
        "reads": sum(counters["read_buckets"])
    }
    rows = [(table.resident_tiers(layer).tolist(), table.slots_of(layer).tolist()) for layer in range(L)]
    planes = [table.planes_of(slot) for slot in range(table.num_slots)]
    return counts, rows, planes, ledger.free_units(), table.num_pinned, table.num_reading, cache.num_reading


steps = st.one_of(
    st.tuples(st.just("serve"), st.integers(0, L - 1), st.dictionaries(st.integers(0, E - 1), st.sampled_from([4, 6, 8]))),
    st.tuples(
        st.sampled_from(["next", "spare"]), st.integers(0, L - 1),
        st.dictionaries(st.integers(0, E - 1), st.sampled_from([4, 6, 8])),
    ),
    st.tuples(st.just("prefetch_predicted"), st.integers(0, L - 1), st.lists(st.integers(0, E - 1), min_size=2, max_size=2, unique=True)),
    st.tuples(st.just("resize"), st.integers(2, 8), st.none()),
    st.tuples(st.just("pass"), st.none(), st.none()),
)  # fmt: skip


def do(cache: ExpertCache, bundle: Bundle, step: tuple[str, Any, Any]) -> Any:
    what, where, which = step
    if what == "serve":
        return serve(cache, bundle, where, wanted(which))
    if what == "prefetch_predicted":
        return cache.prefetch_predicted(where, np.array([which], np.int32), wanted(dict.fromkeys(which, 8)))
    if what == "resize":
        return cache.resize(where)
    if what == "pass":
        cache.end_pass()
        return cache.begin_pass()
    priority = Priority.NEXT if what == "next" else Priority.SPECULATIVE
    return cache.prefetch(where, list(which), wanted(which), priority)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    slots=st.integers(2, 8), min_tier=st.sampled_from([4, 8]), rule=st.sampled_from(["next-use", "lru"]),
    script=st.lists(steps, max_size=14),
)  # fmt: skip
def test_it_does_what_the_reader_in_python_does(bundle, slots, min_tier, rule, script):
    oracle, native = (make(bundle, slots, min_tier, rule, native=native) for native in (False, True))
    for cache in (oracle, native):
        cache.begin_request()
    for step in script:
        assert do(oracle, bundle, step) == do(native, bundle, step), step
        assert state(oracle) == state(native), step
    for cache in (oracle, native):
        cache.finish_reads()
    assert state(oracle) == state(native)
    for cache in (oracle, native):
        cache.close()


def test_a_damaged_record_fails_alike_and_leaves_everything_clean(bundle):
    header = bundle.expert_header(1, 8)
    damage(bundle, 1, header.record_offset(2) + header.segment_bytes[0])
    said = []
    for native in (False, True):
        cache = make(bundle, 4, 8, native=native)
        cache.begin_request()
        with pytest.raises(ExpertReadError, match="checksum") as caught:
            serve(cache, bundle, 1, wanted({1: 8, 2: 8, 3: 8}))
        said.append(str(caught.value))
        assert (cache.residents.table.num_pinned, cache.num_reading) == (0, 0)
        assert serve(cache, bundle, 1, wanted({1: 8, 3: 8})) == [(1, 8), (3, 8)]
        cache.close()
    assert said[0] == said[1]


def test_reads_are_counted_by_their_time(bundle):
    cache = make(bundle, 4, 8)
    cache.begin_request()
    serve(cache, bundle, 0, wanted({0: 8, 1: 8}))
    counters = cache.counters
    assert sum(counters.read_buckets) == 2
    assert len(counters.read_buckets) == len(READ_BOUNDS_S) + 1
    assert counters.read_ns > 0
    cache.resize(3)
    assert sum(cache.counters.read_buckets) == 2
    cache.close()


def test_whoever_watches_is_told_of_every_read(bundle):
    cache, seen = make(bundle, 4, 8), []
    cache.begin_request()
    cache.watch_reads(lambda key, started_ns, elapsed_ns: seen.append((key, started_ns > 0, elapsed_ns > 0)))
    serve(cache, bundle, 1, wanted({0: 8, 3: 8}))
    assert sorted(seen) == [((1, 0), True, True), ((1, 3), True, True)]
    cache.close()


def test_a_drive_that_does_not_answer_is_given_up_and_keeps_its_memory(bundle):
    """The read that is stuck may still write: its slot is nobody else's until it is over."""
    ops = FailingOps()
    cache = make(bundle, 3, 8, in_order=False, ops=ops, wait_s=0.05, io_threads=1)
    cache.begin_request()
    ops.gate = threading.Event()
    with pytest.raises(ExpertReadError, match="expected one of 1 reads to finish within"):
        serve(cache, bundle, 0, wanted({1: 8}))
    assert (cache.num_reading, cache.residents.table.num_reading, cache.residents.table.num_pinned) == (1, 1, 0)
    with pytest.raises(ExpertReadError, match="1 reads of an earlier request have not returned"):
        cache.begin_request()
    ops.gate.set()
    ops.gate = None
    while cache.num_reading:
        cache.pool.reader.collect(1.0)
    cache.begin_request()
    assert serve(cache, bundle, 0, wanted({1: 8, 2: 8})) == [(1, 8), (2, 8)]
    cache.close()


def test_a_read_given_up_under_way_is_made_again_when_it_is_wanted_after_all(bundle):
    ops = FailingOps()
    cache = make(bundle, 4, 8, in_order=False, ops=ops, io_threads=1)
    cache.begin_request()
    ops.begun.clear()
    gate = ops.gate = threading.Event()
    cache.prefetch(1, [3], wanted({3: 8}))
    assert ops.begun.wait(PATIENCE_S)
    cache.pool.begin_layer(1, wanted({0: 8}))  # 3 is given up, part of it is under way
    ops.gate = None
    gate.set()
    assert serve(cache, bundle, 1, wanted({3: 8})) == [(3, 8)]
    counters = cache.counters
    assert (counters.late, counters.prefetch_late, counters.prefetch_wasted) == (1, 1, 0)
    cache.close()


@pytest.mark.parametrize("min_tier", [4, 8])
def test_a_request_interrupted_at_any_line(bundle, min_tier):
    cache = make(bundle, 3, min_tier, in_order=False)
    tiers = [wanted({0: 8, 1: min_tier}), wanted({1: 8, 2: 8}), wanted({3: min_tier, 0: 8})]

    def request() -> list[list[tuple[int, int]]]:
        cache.begin_request()
        served = []
        for layer, each in zip((0, 1, 0), tiers, strict=True):
            cache.begin_pass()
            cache.prefetch_predicted(1 - layer, np.array([[2, 3]], np.int32), wanted({2: 8, 3: 8}))
            served.append(serve(cache, bundle, layer, each))
            cache.end_pass()
        return served

    want = request()
    lines = interrupts.interrupted(request, -1, lambda file: file.startswith(FOLDER)).count
    assert lines > 200
    for at in range(1, lines, 5):
        where = interrupts.interrupted(request, at, lambda file: file.startswith(FOLDER)).where
        try:
            assert request() == want
            cache.begin_request()
            table = cache.residents.table
            assert (table.num_pinned, table.num_reading, cache.num_reading) == (0, 0, 0)
            assert not cache.residents.ledger.discards
        except Exception as err:
            raise AssertionError(f"interrupted at {where}") from err
    cache.close()
