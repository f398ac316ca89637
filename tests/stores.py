"""The engine's own store with other timing: every read is over at once, or those in the background always late."""

from __future__ import annotations

from edge_runtime.experts.store.base import ExpertStore, Priority, ReadTicket


class InOrder:
    """The engine's own store, except that whoever looks finds every read finished: when one comes back never matters.

    A replay has no clock. What a late read changes (who may be evicted meanwhile) is no decision, so it is kept out.
    """

    def __init__(self, inner: ExpertStore) -> None:
        self._inner = inner

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    def native_reads(self) -> None:
        """Every read is seen here."""

    def cancel(self, ticket: ReadTicket) -> bool:
        return False

    def completed(self, timeout_s: float) -> list[ReadTicket]:
        found = self._inner.completed(timeout_s)
        while self._inner.outstanding():
            found += self._inner.completed(1.0)
        return found


class Late:
    """The engine's own store, except that reads in the background take long: nobody sees one before it is waited for."""

    def __init__(self, inner: ExpertStore) -> None:
        self._inner = inner
        self._slow: list[ReadTicket] = []

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    def native_reads(self) -> None:
        """Every read is seen here."""

    def completed(self, timeout_s: float) -> list[ReadTicket]:
        found = self._inner.completed(timeout_s if self._inner.outstanding() else 0.0)
        self._slow += [ticket for ticket in found if ticket.priority is Priority.SPECULATIVE]
        found = [ticket for ticket in found if ticket.priority is not Priority.SPECULATIVE]
        if timeout_s > 0 and not found:
            found, self._slow = self._slow, []
        return found

    def outstanding(self) -> list[ReadTicket]:
        return [*self._inner.outstanding(), *self._slow]

    def promote(self, ticket: ReadTicket, priority: Priority) -> None:
        if ticket not in self._slow:
            self._inner.promote(ticket, priority)
