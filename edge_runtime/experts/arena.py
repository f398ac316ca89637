"""The expert arena: anonymous memory cut into slots of one record prefix each; grows and shrinks while open."""

from __future__ import annotations

import ctypes
import mmap
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.errors import BudgetError
from edge_runtime.base.huge_pages import huge_memory
from edge_runtime.base.sizes import MIB, align_up, format_size
from edge_runtime.bundle.record import PAGE

MAX_SEGMENTS = 4
DEFAULT_CHUNK_BYTES = 128 * MIB
"""Large single allocations fail on recent L4T, and a chunk is the unit handed back whole when shrinking."""


class ExpertArena:
    """Slots of equal size in page-aligned anonymous memory.

    Memory is taken from the system when a slot is first written, and returned by `resize`.

    Args:
        slot_bytes: size of a slot, a multiple of 4 KiB: `RecordLayout.tier_bytes(tier)`.
        num_slots: S, slots at the start.
        segment_offsets: offsets of the segments inside a slot: `RecordLayout.segment_offsets(tier)`.
        chunk_bytes: size aimed at for one allocation; a chunk holds whole slots, at least one.

    Raises:
        BudgetError: the system refused the address space.
    """

    def __init__(
        self,
        *,
        slot_bytes: int,
        num_slots: int,
        segment_offsets: Sequence[int],
        chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    ) -> None:
        if slot_bytes < PAGE or slot_bytes % PAGE:
            raise ValueError(f"arena.slot_bytes: expected a multiple of {PAGE}, got {slot_bytes}")
        if not 1 <= len(segment_offsets) <= MAX_SEGMENTS or max(segment_offsets) >= slot_bytes:
            raise ValueError(
                f"arena.segment_offsets: expected 1 to {MAX_SEGMENTS} inside a slot, got {segment_offsets}"
            )
        self.slot_bytes = slot_bytes
        self._offsets = np.array(segment_offsets, np.uint64)
        self._slots_per_chunk = max(1, chunk_bytes // slot_bytes)
        self._chunks: list[mmap.mmap] = []
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
        return self._num_slots * self.slot_bytes

    @property
    def addresses(self) -> NDArray[np.uint64]:
        """uint64 [S, 4]: address of each segment of each slot, 0 where there is none. Valid until `resize`."""
        return self._addresses[: self._num_slots]

    def segment_addresses(self, slot: int) -> NDArray[np.uint64]:
        """Return uint64 [4], the address of each segment of a slot; unused entries are 0."""
        row: NDArray[np.uint64] = self.addresses[slot]
        return row

    def buffer(self, slot: int) -> memoryview:
        """Return the writable bytes of a slot, 4 KiB aligned. The arena keeps ownership."""
        chunk, offset = self._locate(slot)
        return memoryview(chunk)[offset : offset + self.slot_bytes]

    def discard(self, slot: int) -> None:
        """Return a slot's memory to the system; it reads as zeros until it is written again."""
        chunk, offset = self._locate(slot)
        chunk.madvise(mmap.MADV_DONTNEED, offset, self.slot_bytes)

    def copy(self, source: int, target: int) -> None:
        """Copy one slot's bytes onto another."""
        self.buffer(target)[:] = self.buffer(source)

    def resize(self, num_slots: int) -> None:
        """Grow or shrink to `num_slots`; slots at the end go first, and their memory returns to the system.

        The caller must have emptied the slots that go, and must drop addresses it kept.

        Raises:
            BudgetError: the system refused the address space; the arena keeps its former size.
        """
        if num_slots < 0:
            raise ValueError(f"arena.num_slots: expected 0 or more, got {num_slots}")
        capacity = len(self._addresses)
        try:
            while capacity < num_slots:
                capacity += self._add_chunk(min(self._slots_per_chunk, num_slots - capacity))
        except OSError as err:
            self._shrink(self._num_slots)
            raise BudgetError(
                f"expert arena: the system refused {format_size(num_slots * self.slot_bytes)} ({err.strerror}). "
                "Lower --memory or --expert-memory."
            ) from err
        self._shrink(num_slots)
        self._num_slots = num_slots

    def close(self) -> None:
        """Return all memory. Addresses and buffers must no longer be used."""
        self.resize(0)

    def _locate(self, slot: int) -> tuple[mmap.mmap, int]:
        if not 0 <= slot < self._num_slots:
            raise IndexError(f"arena: slot {slot} is outside 0 to {self._num_slots - 1}")
        index = bisect_right(self._first_slot, slot) - 1
        return self._chunks[index], (slot - self._first_slot[index]) * self.slot_bytes

    def _add_chunk(self, slots: int) -> int:
        chunk = huge_memory(slots * self.slot_bytes)
        base = ctypes.addressof(ctypes.c_char.from_buffer(chunk))
        added = np.zeros((slots, MAX_SEGMENTS), np.uint64)
        starts = base + self.slot_bytes * np.arange(slots, dtype=np.uint64)
        added[:, : len(self._offsets)] = starts[:, None] + self._offsets
        self._first_slot.append(len(self._addresses))
        self._chunks.append(chunk)
        self._addresses = np.concatenate([self._addresses, added])
        return slots

    def _shrink(self, num_slots: int) -> None:
        """Drop whole chunks past `num_slots` and give back the pages of the last one's tail."""
        while self._chunks and self._first_slot[-1] >= num_slots:
            # not closed: a read that never came back may still hold a view; its memory goes when the view does
            self._chunks.pop().madvise(mmap.MADV_DONTNEED)
            self._addresses = self._addresses[: self._first_slot.pop()]
        if self._chunks and num_slots < self._num_slots:
            chunk = self._chunks[-1]
            start = align_up((num_slots - self._first_slot[-1]) * self.slot_bytes, mmap.PAGESIZE)
            if start < len(chunk):
                chunk.madvise(mmap.MADV_DONTNEED, start, len(chunk) - start)
