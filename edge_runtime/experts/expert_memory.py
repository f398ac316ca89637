"""ExpertMemory: the bytes behind a slot table, cores in one arena and planes in another, under one budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.experts.arena import DEFAULT_CHUNK_BYTES, ExpertArena
from edge_runtime.experts.residency import ResizeMoves
from edge_runtime.experts.units import UnitLedger


class ExpertMemory:
    """Memory for the units of a ledger.

    The two arenas together span more addresses than the budget, because how many units of each size are used changes
    as the model runs; what is touched stays within it (see `UnitLedger`).

    Args:
        ledger: counts and sizes of the units.
        chunk_bytes: size aimed at for one allocation.

    Raises:
        BudgetError: the system refused the address space.
    """

    def __init__(self, ledger: UnitLedger, *, chunk_bytes: int = DEFAULT_CHUNK_BYTES) -> None:
        self._ledger, self._chunk_bytes = ledger, chunk_bytes
        self._open()

    def start_over(self, ledger: UnitLedger) -> None:
        """Replace all memory by new memory for the units of a ledger; what was written is lost.

        Raises:
            BudgetError: the system refused the address space.
        """
        self.close()
        self._ledger = ledger
        self._open()

    def _open(self) -> None:
        sizes, ledger, chunk_bytes = self._ledger.sizes, self._ledger, self._chunk_bytes
        self._cores = ExpertArena(
            slot_bytes=sizes.core_bytes,
            num_slots=ledger.num_cores,
            segment_offsets=sizes.core_offsets,
            chunk_bytes=chunk_bytes,
        )
        self._planes: ExpertArena | None = None
        if sizes.max_planes:
            self._planes = ExpertArena(
                slot_bytes=sizes.plane_bytes,
                num_slots=ledger.plane_capacity(ledger.budget_bytes),
                segment_offsets=(0,),
                chunk_bytes=chunk_bytes,
            )

    @property
    def nbytes(self) -> int:
        """Bytes that may be touched."""
        return self._ledger.budget_bytes if self._planes is not None else self._cores.nbytes

    @property
    def addresses(self) -> NDArray[np.uint64]:
        """uint64 [S, 4]: address of each segment of each slot; of planes a slot does not have, anything."""
        return self._cores.addresses

    def core(self, slot: int) -> memoryview:
        """Return the writable bytes of a slot's core."""
        return self._cores.buffer(slot)

    def plane(self, unit: int) -> memoryview:
        """Return the writable bytes of a plane."""
        assert self._planes is not None
        return self._planes.buffer(unit)

    def bind_plane(self, slot: int, index: int, unit: int) -> None:
        """Let a plane be the slot's `index`-th beyond its core."""
        assert self._planes is not None
        self._cores.addresses[slot, self._ledger.sizes.core_segments + index] = self._planes.addresses[unit, 0]

    def discard(self, units: Iterable[tuple[bool, int]]) -> None:
        """Return the memory of free units (is_plane, unit) to the system; they read as zeros when used again."""
        for is_plane, unit in units:
            arena = self._planes if is_plane else self._cores
            assert arena is not None
            arena.discard(unit)

    def reserve(self, budget_bytes: int) -> None:
        """Span the addresses a larger budget needs, before the ledger grows; nothing is touched.

        Raises:
            BudgetError: the system refused; nothing changed.
        """
        for arena, count in self._capacities(budget_bytes):
            if count > arena.num_slots:
                arena.resize(count)

    def follow(self, moves: ResizeMoves, bound: Iterable[tuple[int, Sequence[int]]]) -> None:
        """Follow a ledger whose budget changed: copy what moves, then give back what lies past the new counts.

        Args:
            moves: what the slot table returned.
            bound: (slot, its plane units) of every slot, after the moves.
        """
        arenas = self._capacities(self._ledger.budget_bytes)
        for (arena, count), pairs in zip(arenas, moves, strict=False):
            for source, target in pairs:
                arena.copy(source, target)
            arena.resize(count)
        for slot, units in bound:
            for index, unit in enumerate(units):
                self.bind_plane(slot, index, unit)

    def _capacities(self, budget_bytes: int) -> list[tuple[ExpertArena, int]]:
        counts = [(self._cores, self._ledger.core_capacity(budget_bytes))]
        if self._planes is not None:
            counts.append((self._planes, self._ledger.plane_capacity(budget_bytes)))
        return counts

    def close(self) -> None:
        """Return all memory."""
        self._cores.close()
        if self._planes is not None:
            self._planes.close()
