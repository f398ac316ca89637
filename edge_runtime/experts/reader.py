"""SlotReader: starts reads into claimed slots and settles them in the slot table when they finish."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import monotonic
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.errors import ExpertReadError
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.store.base import ExpertKey, ExpertStore, Priority, ReadTicket, ReadWithdrawn

_log = logging.getLogger(__name__)
_WAIT_S = 0.1


class Finished(NamedTuple):
    """A slot all of whose reads finished; on error an absent expert's slot is free again."""

    slot: int
    key: ExpertKey
    error: ExpertReadError | None


class SlotReader:
    """Joins table, memory and store; every read under way is known here.

    An exception, even an interrupt between any two steps, may leave notes behind that are not true. They are corrected
    from the facts, which tickets are done: by `abort`, and by `start` if it fails.

    Args:
        residents: who is in which slot, and where reads are counted.
        memory: the slots' memory.
        store: reads segments of experts.
    """

    def __init__(self, residents: Residents, memory: ExpertMemory, store: ExpertStore) -> None:
        self.table, self.totals, self.memory, self._store = residents.table, residents.totals, memory, store
        self._pending: dict[int, ReadTicket] = {}  # by slot, of all that it lacks
        self._ahead: list[int] = []  # slots read for a layer that was to come next

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
        try:
            slots = self.table.claim(layer_idx, experts, tiers, prefetch=priority is not Priority.NOW)
            self._discard()
            if priority is Priority.NEXT:
                self._ahead.extend(slots)
            for slot, expert in zip(slots, experts, strict=False):
                self._read(slot, ExpertKey(layer_idx, int(expert)), priority)
        except BaseException:
            self._reconcile()
            raise
        return slots

    def cancel_stale(self, layer_idx: int, tiers: NDArray[np.uint8]) -> None:
        """Read no further for experts of a layer that were read ahead in vain, as far as they are not there yet.

        Args:
            layer_idx: the layer, whose choice is known now.
            tiers: uint8 [E], the tier each expert is needed at; 0: not needed.
        """
        kept: list[int] = []
        for slot in self._ahead:
            ticket = self._pending.get(slot)
            if ticket is None:
                continue
            if ticket.key.layer_idx != layer_idx:
                kept.append(slot)
            elif not tiers[ticket.key.expert_idx] and self._store.cancel(ticket):
                del self._pending[slot]
                self.table.drop(slot)
        self._ahead = kept

    def promote(self, slot: int) -> None:
        """Someone waits for this slot now."""
        self._store.promote(self._pending[slot], Priority.NOW)

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
        """Withdraw queued reads and wait for the others; those that do not return in time keep their slot.

        Afterwards nothing is pinned, and table, ledger and reads agree, whatever happened before.
        """
        for ticket in self._store.outstanding():
            self._store.cancel(ticket)
        deadline = monotonic() + timeout_s
        while self._store.outstanding() and (left := deadline - monotonic()) > 0:
            self._store.completed(min(left, _WAIT_S))
        self._store.completed(0.0)
        self._reconcile()

    def _reconcile(self) -> None:
        """Settle what is over, keep what is under way, and free everything else that was claimed."""
        live = {ticket.tag: ticket for ticket in self._store.outstanding()}
        for slot, ticket in self._pending.items():
            if slot not in live and ticket.error is None and self.table.is_reading(slot):
                self._note(ticket)
                self.table.set_ready(slot)
        self._pending, self._ahead = live, []
        self.table.reconcile([*live])
        self._discard()

    def _discard(self) -> None:
        """Return the memory the ledger wants returned; forgotten only when done."""
        self.memory.discard(self.table.ledger.discards)
        self.table.ledger.drain_discards()

    def _read(self, slot: int, key: ExpertKey, priority: Priority) -> None:
        """Submit what the slot lacks as one read: everything, or only the planes beyond those it is resident with."""
        table, memory = self.table, self.memory
        segments, resident = table.ledger.sizes.core_segments, table.resident_planes(slot)
        units = [] if resident >= 0 else [memory.core(slot)]
        planes = table.planes_of(slot)
        for index in range(max(resident, 0), len(planes)):
            memory.bind_plane(slot, index, planes[index])
            units.append(memory.plane(planes[index]))
        span = segments + resident if resident >= 0 else 0, segments + len(planes)
        self._pending[slot] = self._store.submit(key, units, segments=span, priority=priority, tag=slot)

    def _settle(self, ticket: ReadTicket) -> Finished | None:
        """Settle the slot of a finished read; one that was given up long ago is passed over."""
        slot = ticket.tag
        if self._pending.get(slot) is not ticket:
            return None
        del self._pending[slot]
        self._note(ticket)
        if ticket.error is None:
            self.table.set_ready(slot)
        else:
            self.table.drop(slot)
        return Finished(slot, ticket.key, ticket.error)

    def _note(self, ticket: ReadTicket) -> None:
        if ticket.error is None:
            self.totals.count_read(ticket.elapsed_ns)
        elif not isinstance(ticket.error, ReadWithdrawn):
            _log.warning("expert not read: %s", ticket.error)
