"""The contract of an expert store, over real files and the scripted fake, and what only files can do wrong."""

from __future__ import annotations

import mmap
import os
import shutil
import threading

import numpy as np
import pytest
from byte_ranges import range_of, view_of
from expert_files import TIER, E, FailingOps, Reader, damage, on_disk
from fakes import FakeStore, record_of
from patience import PATIENCE_S

from edge_runtime.backends.cpu.space import HostSpace
from edge_runtime.base.errors import BundleError, ExpertReadError
from edge_runtime.bundle.expert_file import pack_header
from edge_runtime.bundle.part_names import expert_file
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.eviction import RuleContext, create_rule
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.store.base import ExpertKey, ExpertStore, Priority
from edge_runtime.experts.store.file_store import FileExpertStore
from edge_runtime.experts.units import UnitLedger, UnitSizes


@pytest.mark.parametrize("kind", ["file", "fake"])
def test_every_store_keeps_the_contract(bundle, kind):
    size = bundle.manifest.layout.tier_bytes(TIER)
    store: ExpertStore = FileExpertStore(bundle, TIER) if kind == "file" else FakeStore(size, latency=lambda key: 0)
    store.begin_request()
    buffers = [mmap.mmap(-1, size) for _ in range(3)]
    tickets = [store.submit(ExpertKey(1, i), [range_of(buffers[i])], priority=Priority.NEXT, tag=i) for i in range(3)]
    store.promote(tickets[2], Priority.NOW)
    done = []
    while len(done) < 3:
        found = store.completed(5.0)
        assert found, "a read was lost"
        done += found
    assert {ticket.tag for ticket in done} == {0, 1, 2}
    assert all(ticket.is_done and ticket.error is None for ticket in done)
    assert store.completed(0.0) == []
    for i in range(3):
        expected = on_disk(bundle, 1, i, TIER) if kind == "file" else record_of(ExpertKey(1, i), size)
        assert buffers[i][:] == expected
    assert store.stats().bytes_read == 3 * size
    store.close()


def test_every_flipped_bit_is_found_and_named(bundle):
    store = FileExpertStore(bundle, TIER, part_bytes=4096)
    reader = Reader(store)
    header = bundle.expert_header(1, TIER)
    at = header.record_offset(2)
    for segment, size in enumerate(header.segment_bytes):
        for offset in (at, at + size - 1):
            damage(bundle, 1, offset)
            with pytest.raises(
                ExpertReadError, match=rf"layer_001\.hbx: layer 1, expert 2, segment {segment}: .*checksum"
            ):
                reader.read(1, 2)
            damage(bundle, 1, offset)
        at += size
    assert reader.read(1, 2) == on_disk(bundle, 1, 2, TIER)
    store.close()


def test_a_record_of_another_expert_is_refused(bundle):
    path = bundle.path / expert_file(0)
    header = bundle.expert_header(0, TIER)
    data = bytearray(path.read_bytes())
    first, second, stride = header.record_offset(0), header.record_offset(1), header.record_stride
    data[second : second + stride] = data[first : first + stride]
    header.checksums[1] = header.checksums[0]
    data[: header.header_bytes] = pack_header(header)
    path.write_bytes(data)
    store = FileExpertStore(bundle, TIER)
    reader = Reader(store)
    with pytest.raises(
        ExpertReadError, match="expert 1: expected the record of this expert, got that of layer 0, expert 0"
    ):
        reader.read(0, 1)
    assert reader.read(0, 0)
    store.close()


def test_a_truncated_file_is_named_and_the_store_recovers(bundle):
    store = FileExpertStore(bundle, TIER)
    reader = Reader(store)
    path = bundle.path / expert_file(0)
    whole = path.read_bytes()
    os.truncate(path, len(whole) - 4096)
    with pytest.raises(ExpertReadError, match=r"layer_000\.hbx: expected \d+ bytes, got \d+"):
        reader.read(0, 3)
    with pytest.raises(ExpertReadError, match=r"layer_000\.hbx: changed while in use.*truncated"):
        store.begin_request()
    path.write_bytes(whole)
    store.begin_request()
    assert reader.read(0, 3) == on_disk(bundle, 0, 3, TIER)
    store.close()


def test_a_removed_file_is_named_and_reopened_when_it_is_back(bundle):
    store = FileExpertStore(bundle, TIER)
    reader = Reader(store)
    path = bundle.path / expert_file(1)
    spare = shutil.copy(path, bundle.path / "spare")
    path.unlink()
    with pytest.raises(ExpertReadError, match=r"layer_001\.hbx: removed or replaced while in use"):
        reader.read(1, 0)
    assert reader.read(0, 0), "other files are not affected"
    with pytest.raises(ExpertReadError, match=r"layer_001\.hbx: removed while in use"):
        store.begin_request()
    shutil.move(spare, path)
    store.begin_request()
    assert reader.read(1, 0) == on_disk(bundle, 1, 0, TIER)
    store.close()


def test_a_different_file_in_its_place_is_refused(bundle):
    store = FileExpertStore(bundle, TIER)
    path = bundle.path / expert_file(1)
    header = bundle.expert_header(1, TIER)
    data = path.read_bytes()
    header.checksums[0, 0] ^= 1
    path.unlink()
    path.write_bytes(pack_header(header) + data[header.header_bytes :])
    with pytest.raises(ExpertReadError, match="replaced by a different file"):
        store.begin_request()
    store.close()


def test_a_missing_file_is_refused_at_open(bundle):
    (bundle.path / expert_file(1)).unlink()
    with pytest.raises(BundleError, match=r"layer_001\.hbx"):
        FileExpertStore(bundle, TIER)


@pytest.mark.parametrize("slots", [1, 3, 2 * E])
@pytest.mark.parametrize("rule", ["lru", "lcu"])
@pytest.mark.parametrize("io_threads", [1, 8])
def test_cache_over_files_gives_every_expert_once(bundle, slots, rule, io_threads):
    layout = bundle.manifest.layout
    sizes = UnitSizes.of(layout, TIER, TIER)
    ledger = UnitLedger(sizes, slots * sizes.full_bytes, 2 * E)
    memory = ExpertMemory(HostSpace(), ledger)
    store = FileExpertStore(bundle, TIER, io_threads=io_threads, part_bytes=8192)
    eviction = create_rule(rule, RuleContext(num_layers=2, num_experts=E, tier_bytes={TIER: 1}, full_tier=TIER))
    cache = ExpertCache(Residents(ledger, eviction, num_layers=2, num_experts=E), memory, store)
    rng = np.random.default_rng(0)
    for _ in range(10):
        cache.begin_request()
        cache.begin_pass()
        for layer in range(2):
            wanted = (rng.random(E) < 0.6).astype(np.uint8) * TIER
            seen = []
            for batch in cache.stream(layer, wanted):
                for expert, addresses in zip(batch.experts.tolist(), batch.segments, strict=True):
                    slot = int(np.flatnonzero(memory.addresses[:, 0] == addresses[0])[0])
                    assert bytes(view_of(memory.lacking(slot, -1, [])[0])) == on_disk(bundle, layer, expert, TIER)
                    seen.append(expert)
            assert sorted(seen) == np.flatnonzero(wanted).tolist()
        cache.end_pass()
    cache.close()


@pytest.mark.parametrize("is_stuck", [True, False])
def test_the_owner_of_bytes_a_read_may_still_write_is_told(bundle, is_stuck: bool):
    """A block of a driver's pages goes with its GPU, whoever refers to it."""

    class Owner:
        def __init__(self) -> None:
            self.pages, self.is_kept = mmap.mmap(-1, bundle.manifest.layout.tier_bytes(TIER)), False

        def keep(self) -> None:
            self.is_kept = True

    ops, owner = FailingOps(), Owner()
    store = FileExpertStore(bundle, TIER, ops=ops, io_threads=1, read_timeout_s=0.05)
    store.begin_request()
    gate = threading.Event()
    ops.gate = gate if is_stuck else None
    ops.begun.clear()  # files were opened
    into = range_of(owner.pages)._replace(owner=owner)
    store.submit(ExpertKey(0, 1), [into], priority=Priority.NOW, tag=0)
    assert ops.begun.wait(PATIENCE_S)
    while not is_stuck and not store.completed(PATIENCE_S):
        pass
    store.close()
    assert owner.is_kept == is_stuck
    gate.set()
