"""The memory kernels compute experts from: slots, and how what a read brought gets there. Parts of a backend."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from edge_runtime.base.arrays import U64

MAX_SEGMENTS = 4
"""Segments of a record: planes of two bits."""


class Event(Protocol):
    """A point in a backend's work that can be asked about and waited for, from the host."""

    def is_done(self) -> bool:
        """Whether all work before it is over.

        Raises:
            DeviceError: that work failed.
        """
        ...

    def wait(self, timeout_s: float) -> bool:
        """Wait until all work before it is over; return whether it is.

        Raises:
            DeviceError: that work failed.
        """
        ...


@runtime_checkable
class KeepsBytes(Protocol):
    """An owner of bytes that a reference does not keep by itself."""

    def keep(self) -> None:
        """Keep them until the process ends: a read that nobody can wait for may still write there."""
        ...


class ByteRange(NamedTuple):
    """Bytes in one address space.

    Attributes:
        address: of the first.
        nbytes: how many.
        owner: kept alive as long as somebody may write there; None where it outlives every reader.
    """

    address: int
    nbytes: int
    owner: object = None


class SlotMemory(Protocol):
    """Slots of equal size, in blocks of whole slots."""

    @property
    def num_slots(self) -> int:
        """S, slots that may be used."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of the S slots."""
        ...

    @property
    def addresses(self) -> U64:
        """uint64 [S, 4]: where kernels find each segment of each slot, 0 where there is none. Valid until `resize`.

        A view that may be written where the space gives back pages: planes of a slot's expert lie elsewhere then.
        """
        ...

    def range_of(self, slot: int) -> ByteRange:
        """Return the bytes of a slot in the address space of `addresses`."""
        ...

    def untouched(self) -> Sequence[ByteRange]:
        """Return memory of the slots that the system may have yet to give; none where all is held from the start."""
        ...

    def discard(self, slot: int) -> None:
        """Return a slot's memory to the system; its content is lost. Only where the space gives back pages."""
        ...

    def copy(self, source: int, target: int) -> None:
        """Copy one slot's bytes onto another: over before anything else, a read included, changes either of them."""
        ...

    def whole_blocks(self, num_slots: int) -> int:
        """Return the most slots, at most `num_slots`, that can be kept so that nothing beyond them is held.

        It is `num_slots` where pages are given back or a block ends there.
        """
        ...

    def resize(self, num_slots: int) -> None:
        """Grow or shrink to `num_slots`; slots at the end go first.

        The caller has emptied the slots that go, and drops addresses it kept. A slot somebody still writes to (its
        range's owner is alive) is not given to anybody else.

        Raises:
            BudgetError: the system refused the memory; the former size stays.
        """
        ...

    def close(self) -> None:
        """Return all memory."""
        ...


class Landing(Protocol):
    """Where one read lands, from before it starts until its transfer is over."""

    @property
    def targets(self) -> Sequence[ByteRange]:
        """Host memory the read writes, one after the other; each starts 4 KiB aligned."""
        ...


class Transfers(Protocol):
    """Brings what reads left in host memory to where kernels compute from.

    A read has *landed* when its bytes are in the targets of its landing; its slot is *ready to compute* when the
    transfer that follows is over. Where reads land in the slots themselves there is no transfer.
    """

    @property
    def room(self) -> int | None:
        """Reads that may be started now; None: any number."""
        ...

    @property
    def lands_in_place(self) -> bool:
        """Whether landings are always the slots themselves, as kernels call them, and `start` never gives an event.

        Then reads may be started and taken in native code, and nothing of this is asked.
        """
        ...

    def land(self, slots: Sequence[ByteRange]) -> Landing:
        """Reserve where a read for these parts of slots lands. Only while there is room."""
        ...

    def start(self, landing: Landing) -> Event | None:
        """The read has landed: start its transfer. None: there is nothing to transfer.

        An interrupt may fall between this call and the note of what it returned. It is then called again for the same
        landing, and what it returns must cover both.

        Raises:
            DeviceError: it could not be started.
        """
        ...

    def release(self, landing: Landing) -> None:
        """Nothing is read into a landing or transferred from it any more. Safe to call twice."""
        ...

    def keep(self, live: Collection[Landing]) -> None:
        """Release every landing but these, also one whose `land` was interrupted."""
        ...


class MemorySpace(Protocol):
    """An address space kernels compute from."""

    @property
    def gives_back_pages(self) -> bool:
        """Whether `SlotMemory.discard` works and shrinking gives back single slots."""
        ...

    @property
    def runs_late(self) -> bool:
        """Whether kernels may still read slots when their call has returned, so that `fence` is needed."""
        ...

    @property
    def transfers(self) -> Transfers:
        """How reads get here."""
        ...

    def make_slots(
        self, *, slot_bytes: int, num_slots: int, segment_offsets: Sequence[int], block_bytes: int
    ) -> SlotMemory:
        """Allocate slots.

        Args:
            slot_bytes: size of a slot, a multiple of 4 KiB.
            num_slots: S, at the start.
            segment_offsets: where the segments start inside a slot, 1 to 4.
            block_bytes: size aimed at for one allocation, which holds whole slots, at least one.

        Raises:
            BudgetError: the system refused the memory.
        """
        ...

    def fence(self) -> Event | None:
        """Mark all work given to kernels so far, which may still read slots. None: it is over, always so unless late.

        Fences are passed in the order they were made.
        """
        ...
