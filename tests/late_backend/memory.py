"""Device memory: an address space of its own. Its addresses mean nothing to the host, nor to the kernel's read."""

from __future__ import annotations

import ctypes
import mmap
from bisect import bisect_right
from collections.abc import Callable, Sequence

import numpy as np

from edge_runtime.backends.memory import MAX_SEGMENTS, ByteRange
from edge_runtime.base.arrays import U64
from edge_runtime.base.errors import BudgetError, DeviceError
from late_backend.device import COMPUTE, COPY, Device, LateEvent
from late_backend.hazards import Hazards
from late_backend.transfers import LateTransfers

_FIRST_ADDRESS = 1 << 63
"""No process can use such an address: the host faults if it tries."""
POISON = 0xFF


class Block:
    """An allocation. Whoever may still write there keeps it alive."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.address, self.nbytes = address, nbytes
        self.bytes = mmap.mmap(-1, nbytes)
        self.real = ctypes.addressof(ctypes.c_char.from_buffer(self.bytes))
        self.poison()

    def poison(self) -> None:
        """Overwrite everything."""
        ctypes.memset(self.real, POISON, self.nbytes)


def _address(block: Block) -> int:
    return block.address


class DeviceMemory:
    """All allocations of a device. No address comes twice: one that was kept too long is never right by luck."""

    def __init__(self, device: Device, limit_bytes: int | None = None) -> None:
        self._device = device
        self.limit_bytes = limit_bytes
        self.hazards = Hazards()
        self._blocks: list[Block] = []  # by address; replaced, not changed: the device reads it meanwhile
        self._next_address = _FIRST_ADDRESS

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(block.nbytes for block in self._blocks)

    def allocate(self, nbytes: int) -> Block:
        """Take memory, poisoned.

        Raises:
            BudgetError: there is none left.
        """
        if self.limit_bytes is not None and self.nbytes + nbytes > self.limit_bytes:
            raise BudgetError(f"device: {nbytes} bytes more do not fit {self.limit_bytes}. Lower --expert-memory.")
        block = Block(self._next_address, nbytes)
        self._next_address += nbytes + mmap.PAGESIZE
        self._blocks = [*self._blocks, block]
        return block

    def free(self, block: Block) -> None:
        """Give memory back, for which the host has waited for whatever used it."""
        self.hazards.free(ByteRange(block.address, block.nbytes))
        self._blocks = [each for each in self._blocks if each is not block]
        block.poison()

    def push_kernels(self, kind: str, segments: U64, run: Callable[[], None]) -> None:
        """Queue kernels that read segments uint64 [n, m]."""

        def over() -> None:
            self.hazards.end_kernels(segments)

        self.hazards.begin_kernels(segments)
        try:
            self._device.push(COMPUTE, kind, run, over)
        except BaseException:
            over()
            raise

    def real(self, address: int, nbytes: int = 1) -> int:
        """Return where the device finds bytes; an error if they are not all inside one allocation."""
        self._device.require_inside("a slot")
        blocks = self._blocks
        at = bisect_right(blocks, address, key=_address) - 1
        if at < 0 or address + nbytes > blocks[at].address + blocks[at].nbytes:
            raise DeviceError(f"illegal address {address:#x}")
        return blocks[at].real + address - blocks[at].address

    def real_segments(self, addresses: U64) -> U64:
        """Do the same for uint64 [n, 4] at once; 0 stays 0."""
        found = [0 if address == 0 else self.real(int(address)) for address in addresses.ravel()]
        return np.array(found, np.uint64).reshape(addresses.shape)


class LateSlots:
    """Slots in device memory, held by whole blocks. Implements `SlotMemory`."""

    def __init__(
        self,
        device: Device,
        memory: DeviceMemory,
        *,
        slot_bytes: int,
        num_slots: int,
        segment_offsets: Sequence[int],
        block_bytes: int,
    ) -> None:
        self._device, self._memory = device, memory
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
        block = self._blocks[bisect_right(self._first_slot, slot) - 1]
        return ByteRange(int(self.addresses[slot, 0] - self._offsets[0]), self._slot_bytes, block)

    def untouched(self) -> tuple[()]:
        """See `SlotMemory.untouched`: all of it is held."""
        return ()

    def discard(self, slot: int) -> None:
        """Refused: this memory does not give back pages."""
        raise DeviceError(f"slot {slot}: device memory is given back by whole blocks")

    def copy(self, source: int, target: int) -> None:
        """See `SlotMemory.copy`: behind everything, and done."""
        a, b = self.range_of(source).address, self.range_of(target).address

        def run() -> None:
            ctypes.memmove(
                self._memory.real(b, self._slot_bytes), self._memory.real(a, self._slot_bytes), self._slot_bytes
            )

        self._device.finish(COPY)
        self._device.push(COMPUTE, "slot copy", run)
        self._device.finish(COMPUTE)

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
        except BudgetError:
            self._drop_blocks(before)
            raise
        self._drop_blocks(num_slots)
        self.num_slots = num_slots

    def close(self) -> None:
        """See `SlotMemory.close`."""
        self.resize(0)

    def _add_block(self, slots: int) -> None:
        block = self._memory.allocate(slots * self._slot_bytes)
        added = np.zeros((slots, MAX_SEGMENTS), np.uint64)
        starts = np.uint64(block.address) + np.uint64(self._slot_bytes) * np.arange(slots, dtype=np.uint64)
        added[:, : len(self._offsets)] = starts[:, None] + self._offsets
        self._first_slot.append(len(self._addresses))
        self._blocks.append(block)
        self._addresses = np.concatenate([self._addresses, added])

    def _drop_blocks(self, num_slots: int) -> None:
        while self._blocks and self._first_slot[-1] >= num_slots:
            self._memory.free(self._blocks.pop())
            self._addresses = self._addresses[: self._first_slot.pop()]


class LateSpace:
    """Implements `MemorySpace`."""

    gives_back_pages = False
    runs_late = True

    def __init__(self, device: Device, memory: DeviceMemory, record_bytes: int, reads: int) -> None:
        self._device, self._memory = device, memory
        self.transfers = LateTransfers(device, memory, record_bytes, reads)

    def make_slots(
        self, *, slot_bytes: int, num_slots: int, segment_offsets: Sequence[int], block_bytes: int
    ) -> LateSlots:
        """See `MemorySpace.make_slots`."""
        return LateSlots(
            self._device,
            self._memory,
            slot_bytes=slot_bytes,
            num_slots=num_slots,
            segment_offsets=segment_offsets,
            block_bytes=block_bytes,
        )

    def fence(self) -> LateEvent:
        """See `MemorySpace.fence`."""
        return self._device.record(COMPUTE)
