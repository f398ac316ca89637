"""ExpertMemory: the bytes behind a slot table, cores and planes each in slots of their own, under one budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from edge_runtime.backends.memory import ByteRange, MemorySpace, SlotMemory
from edge_runtime.base.arrays import U64
from edge_runtime.base.sizes import MIB
from edge_runtime.experts.first_touch import FirstTouch
from edge_runtime.experts.residency import ResizeMoves
from edge_runtime.experts.touch_order import Progress, joined, side_by_side
from edge_runtime.experts.units import UnitLedger

DEFAULT_BLOCK_BYTES = 128 * MIB
"""Large single allocations fail on recent L4T, and a block is what is returned whole when shrinking."""

_LEAST_BLOCKS = 16
_LEAST_TOUCHED = 64 * MIB
"""Less than that comes as it is needed: it takes milliseconds."""
DEFAULT_AHEAD_BYTES = 256 * MIB
"""Taken ahead of what is used where some of it may never be: more than is read at once."""


class ExpertMemory:
    """Memory for the units of a ledger.

    Where the space gives back pages, cores and planes together span more addresses than the budget, because how many
    units of each size are used changes as the model runs; what is touched stays within it (see `UnitLedger`). Where it
    does not, cores are whole, all of them are held, and shrinking goes by blocks.

    Args:
        space: makes the slots.
        ledger: counts and sizes of the units.
        block_bytes: size aimed at for one allocation.
        ahead_bytes: memory taken from the system ahead of what is used, where some of it may never be.

    Raises:
        BudgetError: the system refused the memory.
    """

    def __init__(
        self,
        space: MemorySpace,
        ledger: UnitLedger,
        *,
        block_bytes: int = DEFAULT_BLOCK_BYTES,
        ahead_bytes: int = DEFAULT_AHEAD_BYTES,
    ) -> None:
        assert space.gives_back_pages or not ledger.sizes.plane_bytes, "planes need memory that gives back pages"
        self.space, self._ledger, self._block_bytes = space, ledger, block_bytes
        self._first_touch: FirstTouch | None = None
        self._touches, self._ahead_bytes = False, ahead_bytes
        self._ahead: int | None = None
        self._progress = Progress()
        self._open()

    def start_over(self, ledger: UnitLedger, *, is_idle: bool = False) -> None:
        """Replace all memory by new memory for the units of a ledger; what was written is lost.

        Args:
            ledger: counts and sizes of the units.
            is_idle: nothing is being read: memory of the same units stays, so that it is not taken a second time.

        Raises:
            BudgetError: the system refused the memory.
        """
        before, self._ledger = self._ledger, ledger
        is_same = before.sizes == ledger.sizes and self._cores.num_slots == before.num_cores
        if is_idle and is_same and ledger.inherit(before):
            return
        self.close()
        self._open()

    def _open(self) -> None:
        sizes, ledger = self._ledger.sizes, self._ledger
        self._cores = self._slots(sizes.core_bytes, ledger.num_cores, sizes.core_offsets)
        self._planes: SlotMemory | None = None
        if sizes.plane_bytes:
            self._planes = self._slots(sizes.plane_bytes, ledger.plane_capacity(ledger.budget_bytes), (0,))
        self._touch_new()

    def _slots(self, slot_bytes: int, num_slots: int, offsets: Sequence[int]) -> SlotMemory:
        block_bytes = self._block_bytes
        if not self.space.gives_back_pages:  # shrinking evicts what shares a block with what goes
            block_bytes = min(block_bytes, self._ledger.budget_bytes // _LEAST_BLOCKS)
        return self.space.make_slots(
            slot_bytes=slot_bytes, num_slots=num_slots, segment_offsets=offsets, block_bytes=block_bytes
        )

    def touch(self, *, is_sure: bool, wait_s: float | None = 0.0) -> None:
        """Take memory from the system in the background, now and whenever it grows or is replaced.

        Of cores and planes, those that experts of the full tier take: what others take in their stead comes as it is
        needed, see `UnitLedger.hold_ahead`.

        Args:
            is_sure: all of it will be used; if not, it is taken a little ahead of what is.
            wait_s: return after so long even if not all of what is sure is there; None: however long it takes.
        """
        ahead = None if is_sure else self._ahead_bytes
        if not self._touches or (is_sure and self._ahead is not None):
            self._touches, self._ahead = True, ahead
            if self._first_touch is None:
                self._touch_new()
            elif is_sure:
                self._first_touch.go_on()
        if is_sure and self._first_touch is not None:
            self._first_touch.wait(wait_s)

    def _touch_new(self) -> None:
        if self._touches and self._ledger.budget_bytes >= _LEAST_TOUCHED:
            self._first_touch = FirstTouch(self._next_used(), self._ahead)

    def _next_used(self) -> Sequence[ByteRange]:
        """Return memory that may not be there yet and will be used, in that order."""
        if self._planes is None:
            self._progress = Progress(self._cores.num_slots)
            return self._cores.untouched()
        cores, planes = self._ledger.hold_ahead_whole()
        self._progress = Progress(max(cores, default=-1) + 1, max(planes, default=-1) + 1)
        return side_by_side(joined(cores, self._cores.range_of), joined(planes, self._planes.range_of))

    def _stop_touching(self) -> None:
        touching, self._first_touch = self._first_touch, None
        if touching is not None:
            touching.stop()

    @property
    def nbytes(self) -> int:
        """Bytes that may be touched."""
        return self._ledger.budget_bytes if self._planes is not None else self._cores.nbytes

    @property
    def addresses(self) -> U64:
        """uint64 [S, 4]: where kernels find each segment of each slot; of planes a slot does not have, anything."""
        return self._cores.addresses

    def lacking(self, slot: int, resident_planes: int, planes: Sequence[int]) -> list[ByteRange]:
        """Return what a read for a slot brings, one range after the other, and let kernels find its planes.

        Args:
            slot: the slot.
            resident_planes: planes of its expert that are there; -1 if the core is not either.
            planes: the slot's plane units, all of them.
        """
        core, first = self._cores.range_of(slot), max(resident_planes, 0)
        if self._planes is None:
            ranges = [self._part(core, resident_planes, len(planes)) if self._ledger.sizes.is_whole else core]
        else:
            ranges = [core] if resident_planes < 0 else []
            for index in range(first, len(planes)):
                self._bind_plane(slot, index, planes[index])
                ranges.append(self._planes.range_of(planes[index]))
        self.follow_reads(slot, planes[first:] if self._planes is not None else ())
        return ranges

    def follow_reads(self, slot: int, planes: Sequence[int]) -> None:
        """A slot and planes are read into: tell whoever takes memory ahead of that."""
        progress, touching = self._progress, self._first_touch
        if touching is not None and any([progress.use(0, slot), *(progress.use(1, unit) for unit in planes)]):
            touching.use(*progress.shares())

    def _part(self, core: ByteRange, resident_planes: int, planes: int) -> ByteRange:
        """Bytes of a whole core that hold the segments beyond `resident_planes`, up to `planes`."""
        start, end = self._ledger.sizes.lacking_part(resident_planes, planes)
        return ByteRange(core.address + start, end - start, core.owner)

    def _bind_plane(self, slot: int, index: int, unit: int) -> None:
        assert self._planes is not None
        self._cores.addresses[slot, self._ledger.sizes.core_segments + index] = self._planes.addresses[unit, 0]

    def places(self) -> tuple[U64, U64 | None, list[object]]:
        """Return addresses uint64 [S, 4] of cores and [P, 4] of planes, and what owns their memory; until it moves."""
        planes = self._planes
        owned = [*self._cores.untouched(), *(planes.untouched() if planes else ())]
        return self._cores.addresses, planes.addresses if planes else None, [one.owner for one in owned]

    def discard_listed(self) -> None:
        """Return the memory the ledger wants returned; forgotten only when done."""
        self.discard(self._ledger.discards)
        self._ledger.drain_discards()

    def discard(self, units: Iterable[tuple[bool, int]]) -> None:
        """Return the memory of free units (is_plane, unit) to the system; their content is lost."""
        if not self.space.gives_back_pages:
            return  # they stay warm: with one size of units nobody else needs their bytes
        for is_plane, unit in units:
            self._stop_touching()  # it may be on its way there; memory is full, so little is left to take
            slots = self._planes if is_plane else self._cores
            assert slots is not None
            slots.discard(unit)

    def budgets_to(self, budget_bytes: int) -> list[int]:
        """Return the budgets to go through, in order, so that no more is ever held than the larger of now and then.

        Where only whole blocks are returned, shrinking goes to the end of one first and grows a smaller block again.
        """
        count = self._ledger.core_capacity(budget_bytes)
        kept = self._cores.whole_blocks(count) if count < self._cores.num_slots else count
        return [budget_bytes] if kept == count else [kept * self._ledger.sizes.core_bytes, budget_bytes]

    def reserve(self, budget_bytes: int) -> None:
        """Span the addresses a larger budget needs, before the ledger grows; nothing is touched.

        Raises:
            BudgetError: the system refused; nothing changed.
        """
        self._stop_touching()
        for slots, count in self._capacities(budget_bytes):
            if count > slots.num_slots:
                slots.resize(count)

    def follow(self, moves: ResizeMoves, planes_of: Callable[[int], Sequence[int]]) -> None:
        """Follow a ledger whose budget changed: copy what moves, then return what lies past the new counts.

        Args:
            moves: what the slot table returned.
            planes_of: plane units of a slot, after the moves.
        """
        capacities = self._capacities(self._ledger.budget_bytes)
        for (slots, count), pairs in zip(capacities, moves, strict=False):
            for source, target in pairs:
                slots.copy(source, target)
            slots.resize(count)
        for slot in range(self._cores.num_slots if self._planes is not None else 0):
            for index, unit in enumerate(planes_of(slot)):
                self._bind_plane(slot, index, unit)

    def touch_on(self) -> None:
        """Go on with `touch` behind a change of the budget."""
        self._touch_new()

    def _capacities(self, budget_bytes: int) -> list[tuple[SlotMemory, int]]:
        counts = [(self._cores, self._ledger.core_capacity(budget_bytes))]
        if self._planes is not None:
            counts.append((self._planes, self._ledger.plane_capacity(budget_bytes)))
        return counts

    def close(self) -> None:
        """Return all memory."""
        self._stop_touching()
        self._cores.close()
        if self._planes is not None:
            self._planes.close()
