"""SlotReader: starts reads into claimed slots and settles them in the slot table when they finish."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import monotonic
from typing import NamedTuple

from edge_runtime.errors import ExpertReadError
from edge_runtime.experts.arena import ExpertArena
from edge_runtime.experts.base import ExpertKey, ExpertStore, Priority, ReadTicket
from edge_runtime.experts.residency import SlotTable

_log = logging.getLogger(__name__)


class Finished(NamedTuple):
    """A slot whose read finished; on error the slot is free again."""

    slot: int
    key: ExpertKey
    error: ExpertReadError | None


class SlotReader:
    """Joins table, arena and store; every read under way is known here.

    Args:
        table: who is in which slot.
        arena: the slots' memory.
        store: reads experts at `tier`.
        tier: the tier a finished read makes resident.
    """

    def __init__(self, table: SlotTable, arena: ExpertArena, store: ExpertStore, tier: int) -> None:
        self._table, self._arena, self._store, self._tier = table, arena, store, tier
        self._tickets: dict[int, ReadTicket] = {}

    @property
    def num_in_flight(self) -> int:
        """Reads started and not settled."""
        return len(self._tickets)

    def start(self, layer_idx: int, experts: Sequence[int], priority: Priority) -> list[int]:
        """Claim slots for the first of `experts`, as many as there is room for, and start reading; return the slots."""
        slots = self._table.claim(layer_idx, list(experts), prefetch=priority is not Priority.NOW)
        for slot, expert in zip(slots, experts, strict=False):
            key = ExpertKey(layer_idx, int(expert))
            self._tickets[slot] = self._store.submit(key, self._arena.buffer(slot), priority=priority, tag=slot)
        return slots

    def promote(self, slot: int) -> None:
        """Someone waits for this slot now."""
        self._store.promote(self._tickets[slot], Priority.NOW)

    def collect(self, timeout_s: float) -> list[Finished]:
        """Settle reads that finished, waiting up to `timeout_s` for the first; [] if none did."""
        return [self._settle(ticket) for ticket in self._store.completed(timeout_s)]

    def abort(self, timeout_s: float) -> None:
        """Withdraw queued reads and wait for the others; those that do not return in time keep their slot."""
        for slot, ticket in list(self._tickets.items()):
            if self._store.cancel(ticket):
                del self._tickets[slot]
                self._table.drop(slot)
        deadline = monotonic() + timeout_s
        while self._tickets and (left := deadline - monotonic()) > 0:
            self.collect(left)

    def _settle(self, ticket: ReadTicket) -> Finished:
        slot = ticket.tag
        del self._tickets[slot]
        if ticket.error is None:
            self._table.set_ready(slot, self._tier)
            self._table.counters.count_read(ticket.elapsed_ns)
        else:
            _log.warning("expert not read: %s", ticket.error)
            self._table.drop(slot)
        return Finished(slot, ticket.key, ticket.error)
