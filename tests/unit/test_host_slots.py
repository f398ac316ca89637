"""Slots in memory of the process: addresses, growing, shrinking, and memory that really returns."""

from __future__ import annotations

import ctypes

import numpy as np
import psutil
import pytest
from byte_ranges import view_of

from edge_runtime.backends.cpu.slots import HostSlots
from edge_runtime.base.errors import BudgetError

PAGE = 4096


def make(slots: int, **options) -> HostSlots:
    values = {"slot_bytes": 3 * PAGE, "segment_offsets": (0, PAGE), "block_bytes": 7 * PAGE} | options
    return HostSlots(num_slots=slots, **values)


def test_addresses_lead_to_the_bytes_of_the_span():
    a = make(5)
    for slot in range(5):
        view_of(a.range_of(slot))[PAGE] = 100 + slot
    for slot in range(5):
        base, second, *unused = a.addresses[slot].tolist()
        assert base % PAGE == 0
        assert second == base + PAGE
        assert unused == [0, 0]
        assert ctypes.c_uint8.from_address(second).value == 100 + slot
    assert len(np.unique(a.addresses[:, 0])) == 5
    assert a.nbytes == 15 * PAGE


def test_growing_and_shrinking_keep_the_slots_that_stay():
    a = make(3)
    view_of(a.range_of(1))[:4] = b"keep"
    for slots in (11, 2, 4, 9, 2):
        before = a.addresses[:2].copy()
        a.resize(slots)
        assert a.num_slots == slots
        assert len(a.addresses) == slots
        assert (a.addresses[:2] == before).all()
        assert bytes(view_of(a.range_of(1))[:4]) == b"keep"
        assert len(np.unique(a.addresses[:, 0])) == slots
    with pytest.raises(IndexError):
        view_of(a.range_of(2))


def test_slots_that_went_come_back_empty():
    a = make(4)
    for slot in range(4):
        view_of(a.range_of(slot))[:] = b"x" * 3 * PAGE
    a.resize(1)
    a.resize(4)
    assert bytes(view_of(a.range_of(0))) == b"x" * 3 * PAGE
    for slot in range(1, 4):
        assert not any(view_of(a.range_of(slot)))


@pytest.mark.parametrize("page_bytes", [4 * PAGE, 16 * PAGE])
def test_pages_shared_with_neighbours_stay_and_what_went_reads_as_zeros(page_bytes):
    """Kernels with pages of 16 or 64 KiB refuse to give back what does not begin at one."""
    a = make(12, page_bytes=page_bytes, slot_bytes=7 * PAGE, block_bytes=70 * PAGE)
    for slot in range(12):
        view_of(a.range_of(slot))[:] = bytes([slot + 1]) * 7 * PAGE
    for slot in (3, 4, 9, 11):
        a.discard(slot)
    for slot in range(12):
        left = b"\0" if slot in (3, 4, 9, 11) else bytes([slot + 1])
        assert bytes(view_of(a.range_of(slot))) == left * 7 * PAGE, slot
    a.resize(6)
    a.resize(12)
    for slot in range(12):
        left = bytes([slot + 1]) if slot in (0, 1, 2, 5) else b"\0"
        assert bytes(view_of(a.range_of(slot))) == left * 7 * PAGE, slot


def test_copy():
    a = make(2)
    view_of(a.range_of(0))[:] = bytes(range(256)) * (3 * PAGE // 256)
    a.copy(0, 1)
    assert view_of(a.range_of(1)) == view_of(a.range_of(0))


@pytest.mark.parametrize("keep", [0, 1, 9])
def test_shrinking_returns_memory_to_the_system(keep):
    size = 4 << 20
    a = HostSlots(slot_bytes=size, num_slots=16, segment_offsets=(0,), block_bytes=16 << 20)
    for slot in range(16):
        view_of(a.range_of(slot))[:] = bytes(size)
    before = psutil.Process().memory_info().rss
    a.resize(keep)
    returned = before - psutil.Process().memory_info().rss
    assert returned > 0.9 * (16 - keep) * size


def test_a_range_held_by_a_stuck_read_stays_valid():
    a = make(4)
    byte_range = a.range_of(3)
    a.close()
    view_of(byte_range)[:] = b"y" * 3 * PAGE
    assert a.nbytes == 0


def test_impossible_sizes_are_refused_and_change_nothing():
    a = make(2)
    with pytest.raises(BudgetError, match="refused"):
        HostSlots(slot_bytes=1 << 46, num_slots=100, segment_offsets=(0,), block_bytes=128 << 20)
    with pytest.raises(ValueError, match="slot_bytes"):
        make(1, slot_bytes=100)
    with pytest.raises(ValueError, match="segment_offsets"):
        make(1, segment_offsets=(0, 3 * PAGE))
    with pytest.raises(ValueError, match="num_slots"):
        a.resize(-1)
    assert a.num_slots == 2
