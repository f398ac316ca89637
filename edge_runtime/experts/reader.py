"""SlotReader: starts reads into claimed slots and settles them in the slot table when they finish."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ExpertReadError
from edge_runtime.experts.base import ExpertKey, ExpertStore, Priority, ReadTicket
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.residency import SlotTable

_log = logging.getLogger(__name__)


class Finished(NamedTuple):
    """A slot all of whose reads finished; on error an absent expert's slot is free again."""

    slot: int
    key: ExpertKey
    error: ExpertReadError | None


@dataclass
class _Pending:
    """Reads of one slot under way: its core, and each plane, that are missing."""

    key: ExpertKey
    tickets: list[ReadTicket] = field(default_factory=list)
    error: ExpertReadError | None = None


class SlotReader:
    """Joins table, memory and store; every read under way is known here.

    Args:
        table: who is in which slot.
        memory: the slots' memory.
        store: reads segments of experts.
    """

    def __init__(self, table: SlotTable, memory: ExpertMemory, store: ExpertStore) -> None:
        self.table, self.memory, self._store = table, memory, store
        self._pending: dict[int, _Pending] = {}

    @property
    def num_in_flight(self) -> int:
        """Slots whose reads are started and not settled."""
        return len(self._pending)

    def start(self, layer_idx: int, experts: Sequence[int], tiers: NDArray[np.uint8], priority: Priority) -> list[int]:
        """Claim room for the first of `experts`, as many as fit, and start reading; return their slots.

        Args:
            layer_idx: their layer.
            experts: absent, or resident below the tier wanted.
            tiers: uint8 [E], the tier wanted.
            priority: of the reads.
        """
        slots = self.table.claim(layer_idx, experts, tiers, prefetch=priority is not Priority.NOW)
        self.memory.discard(self.table.drain_discards())
        for slot, expert in zip(slots, experts, strict=False):
            self._read(slot, ExpertKey(layer_idx, int(expert)), priority)
        return slots

    def promote(self, slot: int) -> None:
        """Someone waits for this slot now."""
        for ticket in self._pending[slot].tickets:
            self._store.promote(ticket, Priority.NOW)

    def collect(self, timeout_s: float) -> list[Finished]:
        """Settle slots whose reads all finished, waiting up to `timeout_s` for the first; [] if none did."""
        deadline = monotonic() + timeout_s
        while True:
            tickets = self._store.completed(timeout_s)
            settled = [done for ticket in tickets if (done := self._settle(ticket)) is not None]
            timeout_s = max(deadline - monotonic(), 0.0) if timeout_s else 0.0
            if settled or not tickets or not self._pending:
                return settled

    def abort(self, timeout_s: float) -> None:
        """Withdraw queued reads and wait for the others; those that do not return in time keep their slot."""
        for slot, pending in list(self._pending.items()):
            kept = [ticket for ticket in pending.tickets if not self._store.cancel(ticket)]
            if len(kept) < len(pending.tickets):
                pending.tickets, pending.error = kept, ExpertReadError("withdrawn")
            if not kept:
                del self._pending[slot]
                self.table.drop(slot)
        deadline = monotonic() + timeout_s
        while self._pending and (left := deadline - monotonic()) > 0:
            self.collect(left)

    def _read(self, slot: int, key: ExpertKey, priority: Priority) -> None:
        """Submit what the slot lacks: everything, or only the planes beyond those it is resident with."""
        pending = self._pending[slot] = _Pending(key)
        sizes, planes = self.table.ledger.sizes, self.table.planes_of(slot)
        resident = self.table.resident_planes(slot)
        if resident is None:
            pending.tickets.append(
                self._store.submit(
                    key, self.memory.core(slot), segments=(0, sizes.core_segments), priority=priority, tag=slot
                )
            )
        for index in range(resident or 0, len(planes)):
            self.memory.bind_plane(slot, index, planes[index])
            first = sizes.core_segments + index
            pending.tickets.append(
                self._store.submit(
                    key, self.memory.plane(planes[index]), segments=(first, first + 1), priority=priority, tag=slot
                )
            )

    def _settle(self, ticket: ReadTicket) -> Finished | None:
        """Note one finished read; settle its slot with the last one."""
        slot = ticket.tag
        pending = self._pending[slot]
        pending.tickets.remove(ticket)
        if ticket.error is None:
            self.table.counters.count_read(ticket.elapsed_ns)
        else:
            pending.error = ticket.error
            _log.warning("expert not read: %s", ticket.error)
        if pending.tickets:
            return None
        del self._pending[slot]
        if pending.error is None:
            self.table.set_ready(slot)
        else:
            self.table.drop(slot)
        return Finished(slot, pending.key, pending.error)
