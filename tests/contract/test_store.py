"""The contract of an expert store, over real files and the scripted fake, and what only files can do wrong."""

from __future__ import annotations

import errno
import logging
import mmap
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeStore, record_of
from manifests import small_manifest

from edge_runtime.errors import BundleError, ExpertReadError
from edge_runtime.experts.arena import ExpertArena
from edge_runtime.experts.base import ExpertKey, ExpertStore, Priority, ReadTicket, ReadWithdrawn
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.eviction import create_rule
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.files import FileOps
from edge_runtime.experts.read_plan import ReadPlan
from edge_runtime.experts.store import FileExpertStore
from edge_runtime.experts.units import UnitLedger, UnitSizes
from edge_runtime.format.bundle import Bundle
from edge_runtime.format.expert_file import KIND_BF16, KIND_PROGRESSIVE, ExpertFileHeader, pack_header
from edge_runtime.format.manifest import Part, expert_file
from edge_runtime.format.record import BF16, RECORD_MAGIC
from edge_runtime.kernels import crc32c

E, TIER = 4, 8
SHAPE = {"hidden": 128, "expert_intermediate": 96}


def write_experts(path: Path, layer: int, sizes: tuple[int, ...], kind: int) -> bytes:
    rng = np.random.default_rng(layer)
    records = rng.integers(0, 256, (E, sum(sizes)), np.uint8)
    sums = np.zeros((E, len(sizes)), np.uint32)
    for expert in range(E):
        if kind == KIND_PROGRESSIVE:
            head = RECORD_MAGIC + layer.to_bytes(4, "little") + expert.to_bytes(4, "little")
            records[expert, : len(head)] = list(head)
        at = 0
        for segment, size in enumerate(sizes):
            sums[expert, segment] = crc32c(records[expert, at : at + size].tobytes())
            at += size
    header = ExpertFileHeader(kind, layer, E, SHAPE["hidden"], SHAPE["expert_intermediate"], sizes, sums)
    path.write_bytes(pack_header(header) + records.tobytes())
    return records.tobytes()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    manifest = small_manifest((2, 4, 6, 8, BF16), **SHAPE)
    (tmp_path / "experts").mkdir()
    parts = [part for part in manifest.parts if not part.name.startswith("experts/")]
    for layer in range(2):
        for tier, kind in ((2, KIND_PROGRESSIVE), (BF16, KIND_BF16)):
            sizes = (manifest.layout.bf16_bytes,) if tier == BF16 else manifest.layout.segment_bytes
            path = tmp_path / expert_file(layer, tier)
            write_experts(path, layer, sizes, kind)
            role = "experts_bf16" if tier == BF16 else "experts"
            parts.append(Part(expert_file(layer, tier), role, path.stat().st_size, "0" * 64, 0, layer))
    manifest.parts[:] = parts
    return Bundle(tmp_path, manifest)


class Reader:
    """A store with a page-aligned buffer for each expert."""

    def __init__(self, store: FileExpertStore) -> None:
        self.store = store
        self.memory: dict[ExpertKey, mmap.mmap] = {}

    def submit(self, layer: int, expert: int, priority: Priority = Priority.NOW):
        key = ExpertKey(layer, expert)
        self.memory[key] = mmap.mmap(-1, self.store.record_bytes)
        return self.store.submit(key, [memoryview(self.memory[key])], priority=priority)

    def wait(self, *tickets: ReadTicket) -> list[ReadTicket]:
        """Wait for reads; return everything completed meanwhile, in order, and raise the first error."""
        done: list[ReadTicket] = []
        while not all(ticket.is_done for ticket in tickets):
            found = self.store.completed(5.0)
            assert found, "a read was lost"
            done += found
        for ticket in tickets:
            if ticket.error is not None:
                raise ticket.error
        return done

    def read(self, layer: int, expert: int) -> bytes:
        self.wait(self.submit(layer, expert))
        return self.memory[ExpertKey(layer, expert)][:]


def on_disk(bundle: Bundle, layer: int, expert: int, tier: int) -> bytes:
    header = bundle.expert_header(layer, tier)
    at = header.record_offset(expert)
    return (bundle.path / expert_file(layer, tier)).read_bytes()[at : at + bundle.manifest.layout.tier_bytes(tier)]


def damage(bundle: Bundle, layer: int, offset: int) -> None:
    with open(bundle.path / expert_file(layer), "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_read_plan_covers_the_prefix_once():
    plan = ReadPlan.make((3 * 4096, 2 * 4096, 2 * 4096), 2 * 4096)
    assert plan.segments == ((0, 12288), (12288, 8192), (20480, 8192))
    assert plan.chunks == ((0, 8192), (8192, 8192), (16384, 8192), (24576, 4096))
    assert ReadPlan.make((4096,), 1 << 20).chunks == ((0, 4096),)
    last = ReadPlan.make((3 * 4096, 2 * 4096, 2 * 4096), 4096, first=2)
    assert (last.first, last.start, last.segments) == (2, 20480, ((0, 8192),))
    assert (last.chunks, last.nbytes) == (((0, 4096), (4096, 4096)), 8192)


@pytest.mark.parametrize("tier", [2, 4, 8, BF16])
@pytest.mark.parametrize("direct_io", [True, False])
@pytest.mark.parametrize("use_uring", [True, False])
@pytest.mark.parametrize("io_threads", [1, 8])
@pytest.mark.parametrize("chunk_bytes", [4096, 1 << 20])
def test_bytes_do_not_depend_on_how_they_are_read(bundle, tier, direct_io, use_uring, io_threads, chunk_bytes):
    store = FileExpertStore(
        bundle, tier, io_threads=io_threads, direct_io=direct_io, use_uring=use_uring, chunk_bytes=chunk_bytes
    )
    assert store.mode in (("direct", "buffered (the file system refuses O_DIRECT)") if direct_io else ("buffered",))
    reader = Reader(store)
    tickets = [reader.submit(layer, expert) for layer in range(2) for expert in range(E)]
    reader.wait(*tickets)
    for key, memory in reader.memory.items():
        assert memory[:] == on_disk(bundle, *key, tier)
    stats = store.stats()
    assert (stats.reads, stats.bytes_read) == (2 * E, 2 * E * store.record_bytes)
    assert stats.busy_ns > 0
    store.close()
    store.close()


@pytest.mark.parametrize("kind", ["file", "fake"])
def test_every_store_keeps_the_contract(bundle, kind):
    size = bundle.manifest.layout.tier_bytes(TIER)
    store: ExpertStore = FileExpertStore(bundle, TIER) if kind == "file" else FakeStore(size, latency=lambda key: 0)
    store.begin_request()
    arena = ExpertArena(slot_bytes=size, num_slots=3, segment_offsets=bundle.manifest.layout.segment_offsets(TIER))
    tickets = [store.submit(ExpertKey(1, i), [arena.buffer(i)], priority=Priority.NEXT, tag=i) for i in range(3)]
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
        assert bytes(arena.buffer(i)) == expected
    assert store.stats().bytes_read == 3 * size
    store.close()


def test_every_flipped_bit_is_found_and_named(bundle):
    store = FileExpertStore(bundle, TIER, chunk_bytes=4096)
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


class FailingOps(FileOps):
    """System calls that fail on command."""

    def __init__(self) -> None:
        self.refuse_direct_at: str | None = None
        self.fail_at: int | None = None
        self.gate: threading.Event | None = None
        self.begun = threading.Event()
        self.direct_opens = 0

    def open(self, path: Path, flags: int) -> int:
        if flags & os.O_DIRECT:
            self.direct_opens += 1
            if self.refuse_direct_at == "open":
                raise OSError(errno.EINVAL, "Invalid argument", str(path))
        return super().open(path, flags)

    def preadv(self, fd: int, into: memoryview, offset: int) -> int:
        import fcntl

        if self.refuse_direct_at == "read" and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        self.begun.set()
        if self.gate is not None:
            assert self.gate.wait(5)
        if self.fail_at is not None and offset <= self.fail_at < offset + len(into):
            raise OSError(errno.EIO, "Input/output error")
        return os.preadv(fd, [into], offset)


@pytest.mark.parametrize("where", ["open", "read"])
def test_a_file_system_without_direct_io_is_read_buffered_and_says_so_once(bundle, caplog, where):
    ops = FailingOps()
    ops.refuse_direct_at = where
    with caplog.at_level(logging.WARNING):
        store = FileExpertStore(bundle, TIER, ops=ops)
        reader = Reader(store)
        for expert in range(E):
            assert reader.read(1, expert) == on_disk(bundle, 1, expert, TIER)
    assert store.mode == "buffered (the file system refuses O_DIRECT)"
    assert len([record for record in caplog.records if "O_DIRECT" in record.message]) == 1
    store.close()


def test_an_input_output_error_names_the_file_and_spares_the_rest(bundle):
    ops = FailingOps()
    store = FileExpertStore(bundle, TIER, ops=ops, chunk_bytes=4096)
    reader = Reader(store)
    ops.fail_at = bundle.expert_header(0, TIER).record_offset(1) + 5000
    with pytest.raises(ExpertReadError, match=r"layer_000\.hbx: reading 4096 bytes at \d+ failed: EIO"):
        reader.read(0, 1)
    assert reader.read(0, 2) == on_disk(bundle, 0, 2, TIER)
    ops.fail_at = None
    assert reader.read(0, 1) == on_disk(bundle, 0, 1, TIER)
    store.close()


def test_waiting_for_a_read_that_hangs_ends(bundle):
    ops = FailingOps()
    store = FileExpertStore(bundle, TIER, ops=ops)
    reader = Reader(store)
    ops.gate = threading.Event()
    ticket = reader.submit(0, 0)
    for timeout_s in (0.0, 0.05, 0.25):
        started = time.monotonic()
        assert store.completed(timeout_s) == []
        assert timeout_s <= time.monotonic() - started < timeout_s + 2
    assert store.outstanding() == [ticket]
    ops.gate.set()
    reader.wait(ticket)
    store.close()


def test_queued_reads_can_be_withdrawn_and_go_by_priority(bundle):
    ops = FailingOps()
    store = FileExpertStore(bundle, TIER, ops=ops, io_threads=1)
    reader = Reader(store)
    ops.gate = threading.Event()
    ops.begun.clear()
    running = reader.submit(0, 0)
    assert ops.begun.wait(5)
    speculative = reader.submit(0, 1, Priority.SPECULATIVE)
    following = reader.submit(0, 2, Priority.NEXT)
    promoted = reader.submit(0, 3, Priority.SPECULATIVE)
    store.promote(promoted, Priority.NOW)
    dropped = reader.submit(1, 0, Priority.NOW)
    assert store.cancel(dropped)
    assert not store.cancel(running)
    ops.gate.set()
    assert reader.wait(running, speculative, following, promoted) == [running, promoted, following, speculative]
    with pytest.raises(ExpertReadError, match="withdrawn"):
        reader.wait(dropped)
    store.close()


def test_a_withdrawn_read_ends_after_the_part_that_is_under_way(bundle):
    ops = FailingOps()
    store = FileExpertStore(bundle, TIER, ops=ops, io_threads=1, chunk_bytes=4096)
    reader = Reader(store)
    ops.gate = threading.Event()
    ops.begun.clear()
    unwanted = reader.submit(0, 0)
    assert ops.begun.wait(5)
    wanted = reader.submit(0, 1)
    assert not store.cancel(unwanted)
    ops.gate.set()
    with pytest.raises(ReadWithdrawn, match="layer 0, expert 0: withdrawn"):
        reader.wait(unwanted)
    reader.wait(wanted)
    assert store.stats().reads == 1
    assert store.stats().bytes_read == 4096 + store.record_bytes
    assert not store.outstanding()
    store.close()


def num_threads() -> int:
    """Threads of this process, native ones included."""
    return len(os.listdir("/proc/self/task"))


def wait_for_threads(count: int) -> None:
    """A thread that said goodbye may still be on its way out."""
    deadline = time.monotonic() + 5
    while num_threads() > count and time.monotonic() < deadline:
        time.sleep(0.01)
    assert num_threads() == count


def test_close_ends_queued_reads_and_threads(bundle):
    before = num_threads()
    ops = FailingOps()
    store = FileExpertStore(bundle, TIER, ops=ops, io_threads=2)
    reader = Reader(store)
    ops.gate = threading.Event()
    tickets = [reader.submit(0, expert) for expert in range(E)]
    threading.Timer(0.05, ops.gate.set).start()
    store.close()
    assert all(ticket.is_done for ticket in tickets)
    assert isinstance(tickets[-1].error, ExpertReadError)
    wait_for_threads(before)


@pytest.mark.parametrize("slots", [1, 3, 2 * E])
@pytest.mark.parametrize("rule", ["lru", "lcu"])
@pytest.mark.parametrize("io_threads", [1, 8])
def test_cache_over_files_gives_every_expert_once(bundle, slots, rule, io_threads):
    layout = bundle.manifest.layout
    sizes = UnitSizes.of(layout, TIER, TIER)
    ledger = UnitLedger(sizes, slots * sizes.full_bytes, 2 * E)
    memory = ExpertMemory(ledger, layout.segment_offsets(TIER))
    store = FileExpertStore(bundle, TIER, io_threads=io_threads, chunk_bytes=8192)
    eviction = create_rule(rule, num_layers=2, num_experts=E, tier_bytes={TIER: 1}, full_tier=TIER)
    cache = ExpertCache(ledger, memory, store, eviction, num_layers=2, num_experts=E)
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
                    assert bytes(memory.core(slot)) == on_disk(bundle, layer, expert, TIER)
                    seen.append(expert)
            assert sorted(seen) == np.flatnonzero(wanted).tolist()
        cache.end_pass()
    cache.close()


@pytest.mark.parametrize("use_uring", [True, False])
def test_threads_end_with_the_store(bundle, use_uring):
    before = num_threads()
    for _ in range(3):
        store = FileExpertStore(bundle, TIER, use_uring=use_uring)
        assert num_threads() > before
        assert Reader(store).read(1, 3) == on_disk(bundle, 1, 3, TIER)
        store.close()
    wait_for_threads(before)


def test_one_read_fills_several_pieces_of_memory(bundle):
    layout = bundle.manifest.layout
    sizes = [layout.tier_bytes(4), layout.segment_bytes[2], layout.segment_bytes[3]]
    for use_uring in (True, False):
        store = FileExpertStore(bundle, 8, use_uring=use_uring, chunk_bytes=8192)
        pieces = [mmap.mmap(-1, size) for size in sizes]
        reader = Reader(store)
        reader.wait(store.submit(ExpertKey(1, 2), [memoryview(piece) for piece in pieces]))
        assert b"".join(piece[:] for piece in pieces) == on_disk(bundle, 1, 2, 8)
        tail = [mmap.mmap(-1, size) for size in sizes[1:]]
        reader.wait(store.submit(ExpertKey(0, 3), [memoryview(piece) for piece in tail], segments=(2, 4)))
        assert b"".join(piece[:] for piece in tail) == on_disk(bundle, 0, 3, 8)[sizes[0] :]
        assert (store.stats().reads, store.stats().bytes_read) == (2, 2 * sum(sizes) - sizes[0])
        with pytest.raises(ValueError, match="expected memory of"):
            store.submit(ExpertKey(0, 3), [memoryview(mmap.mmap(-1, 4096))])
        assert store.outstanding() == []
        store.close()
