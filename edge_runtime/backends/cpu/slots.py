"""Slots in anonymous memory of the process; they grow and shrink while open."""

from __future__ import annotations

import ctypes
import mmap
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from edge_runtime.backends.memory import MAX_SEGMENTS, ByteRange
from edge_runtime.base.arrays import U64
from edge_runtime.base.errors import BudgetError
from edge_runtime.base.huge_pages import huge_memory
from edge_runtime.base.sizes import align_up, format_size
from edge_runtime.bundle.record import PAGE


class HostSlots:
    """Slots of equal size in page-aligned memory. Implements `SlotMemory`.

    Memory is taken from the system when a slot is first written, and returned by `discard` and `resize`.

    Args:
        slot_bytes: size of a slot, a multiple of 4 KiB.
        num_slots: S, slots at the start.
        segment_offsets: offsets of the segments inside a slot.
        block_bytes: size aimed at for one allocation; a block holds whole slots, at least one.
        page_bytes: size of the system's pages: 4 KiB, or 16 as on a Raspberry Pi 5, or 64.

    Raises:
        BudgetError: the system refused the address space.
    """

    def __init__(
        self,
        *,
        slot_bytes: int,
        num_slots: int,
        segment_offsets: Sequence[int],
        block_bytes: int,
        page_bytes: int = mmap.PAGESIZE,
    ) -> None:
        if slot_bytes < PAGE or slot_bytes % PAGE:
            raise ValueError(f"slots.slot_bytes: expected a multiple of {PAGE}, got {slot_bytes}")
        if not 1 <= len(segment_offsets) <= MAX_SEGMENTS or max(segment_offsets) >= slot_bytes:
            raise ValueError(
                f"slots.segment_offsets: expected 1 to {MAX_SEGMENTS} inside a slot, got {segment_offsets}"
            )
        self._slot_bytes, self._page = slot_bytes, page_bytes
        self._offsets = np.array(segment_offsets, np.uint64)
        self._slots_per_block = max(1, block_bytes // slot_bytes)
        self._blocks: list[mmap.mmap] = []
        self._first_slot: list[int] = []
        self._addresses = np.zeros((0, MAX_SEGMENTS), np.uint64)
        self._num_slots = 0
        self.resize(num_slots)

    @property
    def num_slots(self) -> int:
        """S, slots that may be used."""
        return self._num_slots

    @property
    def nbytes(self) -> int:
        """Bytes of all slots; the memory really used grows up to this as slots are first written."""
        return self._num_slots * self._slot_bytes

    @property
    def addresses(self) -> U64:
        """uint64 [S, 4]: address of each segment of each slot, 0 where there is none. Valid until `resize`."""
        return self._addresses[: self._num_slots]

    def range_of(self, slot: int) -> ByteRange:
        """Return a slot's bytes, 4 KiB aligned; whoever holds the range may write there whatever becomes of it."""
        block, _ = self._locate(slot)
        return ByteRange(int(self._addresses[slot, 0] - self._offsets[0]), self._slot_bytes, block)

    def untouched(self) -> list[ByteRange]:
        """See `SlotMemory.untouched`: all slots, a range for each block."""
        ends = [*self._first_slot[1:], self._num_slots]
        starts = self._first_slot[: len(ends)]
        return [
            ByteRange(int(self._addresses[first, 0] - self._offsets[0]), (end - first) * self._slot_bytes, block)
            for first, end, block in zip(starts, ends, self._blocks, strict=True)
            if end > first
        ]

    def discard(self, slot: int) -> None:
        """Return a slot's whole pages to the system; it reads as zeros until it is written again.

        Where the system's pages are larger than 4 KiB, those at its ends may be its neighbours' too, and stay.
        """
        block, offset = self._locate(slot)
        self._empty(block, offset, offset + self._slot_bytes)

    def copy(self, source: int, target: int) -> None:
        """Copy one slot's bytes onto another."""
        ctypes.memmove(self.range_of(target).address, self.range_of(source).address, self._slot_bytes)

    def whole_blocks(self, num_slots: int) -> int:
        """See `SlotMemory.whole_blocks`: pages are given back, so any number."""
        return num_slots

    def resize(self, num_slots: int) -> None:
        """Grow or shrink to `num_slots`; slots at the end go first, and their memory returns to the system.

        Raises:
            BudgetError: the system refused the address space; the former size stays.
        """
        if num_slots < 0:
            raise ValueError(f"slots.num_slots: expected 0 or more, got {num_slots}")
        capacity = len(self._addresses)
        try:
            while capacity < num_slots:
                capacity += self._add_block(min(self._slots_per_block, num_slots - capacity))
        except OSError as err:
            self._shrink(self._num_slots)
            raise BudgetError(
                f"expert arena: the system refused {format_size(num_slots * self._slot_bytes)} ({err.strerror}). "
                "Lower --memory or --expert-memory."
            ) from err
        self._shrink(num_slots)
        self._num_slots = num_slots

    def close(self) -> None:
        """Return all memory."""
        self.resize(0)

    def _locate(self, slot: int) -> tuple[mmap.mmap, int]:
        if not 0 <= slot < self._num_slots:
            raise IndexError(f"slots: {slot} is outside 0 to {self._num_slots - 1}")
        index = bisect_right(self._first_slot, slot) - 1
        return self._blocks[index], (slot - self._first_slot[index]) * self._slot_bytes

    def _add_block(self, slots: int) -> int:
        block = huge_memory(slots * self._slot_bytes)
        base = ctypes.addressof(ctypes.c_char.from_buffer(block))
        added = np.zeros((slots, MAX_SEGMENTS), np.uint64)
        starts = base + self._slot_bytes * np.arange(slots, dtype=np.uint64)
        added[:, : len(self._offsets)] = starts[:, None] + self._offsets
        self._first_slot.append(len(self._addresses))
        self._blocks.append(block)
        self._addresses = np.concatenate([self._addresses, added])
        return slots

    def _shrink(self, num_slots: int) -> None:
        """Drop whole blocks past `num_slots` and give back the pages of the last one's tail."""
        while self._blocks and self._first_slot[-1] >= num_slots:
            # not closed: a read that never came back may still write there; the memory goes when its range does
            self._blocks.pop().madvise(mmap.MADV_DONTNEED)
            self._addresses = self._addresses[: self._first_slot.pop()]
        if self._blocks and num_slots < self._num_slots:
            block = self._blocks[-1]
            self._empty(block, (num_slots - self._first_slot[-1]) * self._slot_bytes, len(block))

    def _empty(self, block: mmap.mmap, start: int, end: int) -> None:
        """Give back the whole pages of a part of a block, and write zeros where a page is its neighbours' too."""
        first = min(align_up(start, self._page), end)
        last = end if end == len(block) else max(end // self._page * self._page, first)
        if last > first:
            block.madvise(mmap.MADV_DONTNEED, first, last - first)
        block[start:first], block[last:end] = bytes(first - start), bytes(end - last)
