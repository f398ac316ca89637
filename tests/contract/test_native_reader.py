"""How the native reader reads: both of its methods, direct and buffered, its order, its errors, its threads."""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import platform
import struct
import sys
import threading
import time
from contextlib import closing

import pytest
from byte_ranges import range_of
from expert_files import TIER, E, FailingOps, Reader, num_threads, on_disk, wait_for_threads
from patience import PATIENCE_S, Turnstile, until

from edge_runtime.base.errors import ExpertReadError
from edge_runtime.bundle.record import BF16
from edge_runtime.experts.store.base import ExpertKey, Priority, ReadCancelled
from edge_runtime.experts.store.file_store import FileExpertStore
from edge_runtime.experts.store.read_layout import ReadLayout


def kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])


def slice_ns(thread: int) -> int:
    """How long a thread of this process may run at once, as it asked: sched_getattr."""
    attributes, sched_getattr = ctypes.create_string_buffer(48), 315
    if ctypes.CDLL(None).syscall(sched_getattr, thread, attributes, 48, 0) != 0:
        return -1
    return int(struct.unpack("IIQiIQQQ", attributes)[5])


def test_read_layout_covers_the_prefix_once():
    layout = ReadLayout.make((3 * 4096, 2 * 4096, 2 * 4096), 2 * 4096)
    assert layout.segments == ((0, 12288), (12288, 8192), (20480, 8192))
    assert layout.parts == ((0, 8192), (8192, 8192), (16384, 8192), (24576, 4096))
    assert ReadLayout.make((4096,), 1 << 20).parts == ((0, 4096),)
    last = ReadLayout.make((3 * 4096, 2 * 4096, 2 * 4096), 4096, first=2)
    assert (last.first, last.start, last.segments) == (2, 20480, ((0, 8192),))
    assert (last.parts, last.nbytes) == (((0, 4096), (4096, 4096)), 8192)


@pytest.mark.parametrize("tier", [2, 4, 8, BF16])
@pytest.mark.parametrize("direct_io", [True, False])
@pytest.mark.parametrize("use_uring", [True, False])
@pytest.mark.parametrize("io_threads", [1, 8])
@pytest.mark.parametrize("part_bytes", [4096, 1 << 20])
def test_bytes_do_not_depend_on_how_they_are_read(bundle, tier, direct_io, use_uring, io_threads, part_bytes):
    store = FileExpertStore(
        bundle, tier, io_threads=io_threads, direct_io=direct_io, use_uring=use_uring, part_bytes=part_bytes
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
    store = FileExpertStore(bundle, TIER, ops=ops, part_bytes=4096)
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
        assert timeout_s <= time.monotonic() - started < PATIENCE_S
    assert store.outstanding() == [ticket]
    ops.gate.set()
    reader.wait(ticket)
    store.close()


def test_queued_reads_can_be_cancelled_and_go_by_priority(bundle):
    ops = FailingOps()
    store = FileExpertStore(bundle, TIER, ops=ops, io_threads=1)
    reader = Reader(store)
    ops.gate = threading.Event()
    ops.begun.clear()
    running = reader.submit(0, 0)
    assert ops.begun.wait(PATIENCE_S)
    speculative = reader.submit(0, 1, Priority.SPECULATIVE)
    following = reader.submit(0, 2, Priority.NEXT)
    promoted = reader.submit(0, 3, Priority.SPECULATIVE)
    store.promote(promoted, Priority.NOW)
    dropped = reader.submit(1, 0, Priority.NOW)
    assert store.cancel(dropped)
    assert not store.cancel(running)
    ops.gate.set()
    assert reader.wait(running, speculative, following, promoted) == [running, promoted, following, speculative]
    with pytest.raises(ExpertReadError, match="cancelled"):
        reader.wait(dropped)
    store.close()


def test_reads_ahead_start_in_half_the_places_and_those_needed_now_in_all(bundle):
    ops = FailingOps()
    store = FileExpertStore(bundle, TIER, ops=ops, io_threads=4)
    reader = Reader(store)
    ops.gate = threading.Event()

    def under_way(expected: int) -> int:
        """Reads that hang in the drive, once there are as many as expected and time for one more has passed."""
        until(lambda: ops.waiting >= expected)
        time.sleep(0.05)
        return ops.waiting

    ahead = [reader.submit(0, expert, Priority.NEXT) for expert in range(E)]
    assert under_way(2) == 2
    store.promote(ahead[3], Priority.NOW)
    assert under_way(3) == 3
    needed = [reader.submit(1, expert) for expert in range(E)]
    assert under_way(4) == 4
    ops.gate.set()
    done = reader.wait(*ahead, *needed)
    assert ahead[2] in done[-2:], "what is needed goes first; it starts when one of them is left"
    store.close()


def test_a_cancelled_read_ends_after_the_part_that_is_under_way(bundle):
    ops = FailingOps()
    store = FileExpertStore(bundle, TIER, ops=ops, io_threads=1, part_bytes=4096)
    reader = Reader(store)
    ops.gate = threading.Event()
    ops.begun.clear()
    unwanted = reader.submit(0, 0)
    assert ops.begun.wait(PATIENCE_S)
    wanted = reader.submit(0, 1)
    assert not store.cancel(unwanted)
    ops.gate.set()
    with pytest.raises(ReadCancelled, match="layer 0, expert 0: cancelled"):
        reader.wait(unwanted)
    reader.wait(wanted)
    assert store.stats().reads == 1
    assert store.stats().bytes_read == 4096 + store.record_bytes
    assert not store.outstanding()
    store.close()


def test_a_read_is_counted_when_it_is_handed_out_not_when_it_lands(bundle):
    """Else a count would say how far the drive happened to be when somebody looked."""
    ops = FailingOps()
    store = FileExpertStore(bundle, TIER, ops=ops, io_threads=1)
    reader = Reader(store)
    ops.gate = gate = Turnstile()
    first, second = reader.submit(0, 0), reader.submit(0, 1)
    until(lambda: ops.begun.is_set() and ops.waiting == 1)
    ops.begun.clear()
    gate.let_in()
    assert ops.begun.wait(PATIENCE_S), "the one thread there is begins a read when the one before has landed"
    assert (store.stats().reads, store.stats().bytes_read) == (0, 0)
    reader.wait(first)
    assert (store.stats().reads, store.stats().bytes_read) == (1, store.record_bytes)
    gate.let_in()
    reader.wait(second)
    assert (store.stats().reads, store.stats().bytes_read) == (2, 2 * store.record_bytes)
    store.close()


def test_what_had_landed_of_a_cancelled_read_is_counted(bundle):
    ops = FailingOps()
    store = FileExpertStore(bundle, TIER, ops=ops, io_threads=1, part_bytes=4096)
    reader = Reader(store)
    ops.gate = gate = Turnstile()
    unwanted = reader.submit(0, 0, Priority.NEXT)
    until(lambda: ops.waiting == 1)
    wanted = reader.submit(0, 1)
    ops.begun.clear()
    gate.let_in()  # the first part of one lands, then the other goes first
    assert ops.begun.wait(PATIENCE_S)
    assert store.cancel(unwanted), "nothing of it is under way"
    assert store.stats().bytes_read == 4096
    gate.let_in(store.record_bytes // 4096)
    reader.wait(wanted)
    assert (store.stats().reads, store.stats().bytes_read) == (1, 4096 + store.record_bytes)
    store.close()


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


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() != "x86_64" or kernel() < (6, 12),
    reason="short time slices of ordinary threads: Linux 6.12; the number of the call is x86-64's",
)
@pytest.mark.parametrize("use_uring", [True, False])
def test_threads_that_read_run_as_soon_as_they_wake_up(bundle, use_uring):
    before = set(os.listdir("/proc/self/task"))
    with closing(FileExpertStore(bundle, TIER, io_threads=2, use_uring=use_uring)):
        new = set(os.listdir("/proc/self/task")) - before
        until(lambda: [slice_ns(int(thread)) for thread in new] == [100_000] * len(new))
    assert new


@pytest.mark.parametrize("use_uring", [True, False])
def test_threads_end_with_the_store(bundle, use_uring):
    before = num_threads()
    for _ in range(3):
        store = FileExpertStore(bundle, TIER, use_uring=use_uring)
        assert num_threads() > before
        assert Reader(store).read(1, 3) == on_disk(bundle, 1, 3, TIER)
        store.close()
    wait_for_threads(before)


def test_one_read_fills_several_targets_in_memory(bundle):
    layout = bundle.manifest.layout
    sizes = [layout.tier_bytes(4), layout.segment_bytes[2], layout.segment_bytes[3]]
    for use_uring in (True, False):
        store = FileExpertStore(bundle, 8, use_uring=use_uring, part_bytes=8192)
        buffers = [mmap.mmap(-1, size) for size in sizes]
        reader = Reader(store)
        reader.wait(store.submit(ExpertKey(1, 2), [range_of(buffer) for buffer in buffers]))
        assert b"".join(buffer[:] for buffer in buffers) == on_disk(bundle, 1, 2, 8)
        tail = [mmap.mmap(-1, size) for size in sizes[1:]]
        reader.wait(store.submit(ExpertKey(0, 3), [range_of(buffer) for buffer in tail], segments=(2, 4)))
        assert b"".join(buffer[:] for buffer in tail) == on_disk(bundle, 0, 3, 8)[sizes[0] :]
        assert (store.stats().reads, store.stats().bytes_read) == (2, 2 * sum(sizes) - sizes[0])
        with pytest.raises(ValueError, match="expected memory of"):
            store.submit(ExpertKey(0, 3), [range_of(mmap.mmap(-1, 4096))])
        assert store.outstanding() == []
        store.close()
