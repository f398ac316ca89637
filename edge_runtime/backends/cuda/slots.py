"""Slots of experts in blocks the GPU reads. Implements `SlotMemory`."""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from edge_runtime.backends.cuda.blocks import Block, Kind, make_block
from edge_runtime.backends.cuda.driver import Stream
from edge_runtime.backends.memory import MAX_SEGMENTS, ByteRange
from edge_runtime.base.arrays import U64
from edge_runtime.base.errors import BudgetError, DeviceError
from edge_runtime.base.sizes import format_size


class CudaSlots:
    """Slots held by whole blocks. Implements `SlotMemory`; addresses are the GPU's.

    Args:
        stream: kernels that read slots run on it.
        kind: of memory.
        slot_bytes: size of a slot, a multiple of 4 KiB.
        num_slots: S, at the start.
        segment_offsets: where segments start inside a slot.
        block_bytes: size aimed at for one allocation.

    Raises:
        BudgetError: the memory was refused.
    """

    def __init__(
        self,
        stream: Stream,
        kind: Kind,
        *,
        slot_bytes: int,
        num_slots: int,
        segment_offsets: Sequence[int],
        block_bytes: int,
    ) -> None:
        self._stream, self._kind = stream, kind
        self._slot_bytes, self._offsets = slot_bytes, np.array(segment_offsets, np.uint64)
        self._slots_per_block = max(1, block_bytes // slot_bytes)
        self._blocks: list[Block] = []
        self._first_slot: list[int] = []
        self._addresses = np.zeros((0, MAX_SEGMENTS), np.uint64)
        self.num_slots = 0
        self.resize(num_slots)

    @property
    def nbytes(self) -> int:
        """See `SlotMemory.nbytes`."""
        return self.num_slots * self._slot_bytes

    @property
    def addresses(self) -> U64:
        """See `SlotMemory.addresses`."""
        return self._addresses[: self.num_slots]

    def range_of(self, slot: int) -> ByteRange:
        """See `SlotMemory.range_of`."""
        index = bisect_right(self._first_slot, slot) - 1
        start = self._blocks[index].address + (slot - self._first_slot[index]) * self._slot_bytes
        return ByteRange(start, self._slot_bytes, self._blocks[index])

    def untouched(self) -> tuple[()]:
        """See `SlotMemory.untouched`: all of it is held."""
        return ()

    def discard(self, slot: int) -> None:
        """Refused: this memory does not give back pages."""
        raise DeviceError(f"slot {slot}: memory of the GPU is given back by whole blocks")

    def copy(self, source: int, target: int) -> None:
        """See `SlotMemory.copy`: behind all kernels, and done. The GPU writes no memory of the host's."""
        a, b = self.range_of(source), self.range_of(target)
        self._stream.synchronize()
        if self._kind == "device":
            self._stream.device.call(
                "cuMemcpyDtoDAsync_v2", b.address, a.address, self._slot_bytes, self._stream.handle
            )
            self._stream.synchronize()
        else:
            ctypes.memmove(on_host(b).address, on_host(a).address, self._slot_bytes)

    def whole_blocks(self, num_slots: int) -> int:
        """See `SlotMemory.whole_blocks`: where a block ends."""
        ends = [0, *self._first_slot[1:], len(self._addresses)]
        return max(end for end in ends if end <= num_slots)

    def resize(self, num_slots: int) -> None:
        """See `SlotMemory.resize`."""
        before = len(self._addresses)
        try:
            while len(self._addresses) < num_slots:
                self._add_block(min(self._slots_per_block, num_slots - len(self._addresses)))
        except DeviceError as err:
            self._drop_blocks(before)
            raise BudgetError(
                f"expert arena: {format_size(num_slots * self._slot_bytes)} of {self._kind} memory were refused: {err} "
                "Lower --memory or --expert-memory."
            ) from err
        self._drop_blocks(num_slots)
        self.num_slots = num_slots

    def close(self) -> None:
        """See `SlotMemory.close`."""
        self.resize(0)

    def _add_block(self, slots: int) -> None:
        block = make_block(self._stream.device, self._kind, slots * self._slot_bytes)
        added = np.zeros((slots, MAX_SEGMENTS), np.uint64)
        starts = np.uint64(block.address) + np.uint64(self._slot_bytes) * np.arange(slots, dtype=np.uint64)
        added[:, : len(self._offsets)] = starts[:, None] + self._offsets
        self._first_slot.append(len(self._addresses))
        self._blocks.append(block)
        self._addresses = np.concatenate([self._addresses, added])

    def _drop_blocks(self, num_slots: int) -> None:
        while self._blocks and self._first_slot[-1] >= num_slots:
            self._blocks.pop().close()
            self._addresses = self._addresses[: self._first_slot.pop()]


def on_host(place: ByteRange) -> ByteRange:
    """Return the same bytes of a slot, or of a part of one, by their address on the host; there must be one."""
    block: Block = place.owner  # type: ignore[assignment]
    assert block.host is not None, "the host cannot touch device memory"
    return ByteRange(block.host + place.address - block.address, place.nbytes, block)
