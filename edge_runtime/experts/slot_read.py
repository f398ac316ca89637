"""What is under way for one slot: a read, then the transfer of what it brought."""

from __future__ import annotations

import logging
from time import perf_counter_ns
from typing import NamedTuple

from edge_runtime.backends.memory import Event, Landing
from edge_runtime.base.errors import DeviceError, ExpertReadError, ExpertTransferError
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.store.base import ExpertKey, ReadCancelled, ReadTicket

_log = logging.getLogger(__name__)


class Finished(NamedTuple):
    """A slot that is ready to compute; on error an absent expert's slot is free again."""

    slot: int
    key: ExpertKey
    error: ExpertReadError | None


class SlotRead:
    """What is under way for a slot: a read while its ticket is not done, then a transfer.

    Attributes:
        key: the expert.
        landing: where the read lands.
        ticket: of the read; None until it was submitted.
        transfer: over when the transfer is; None before it starts.
        is_counted: whether the read was counted.
        started_ns: when it was asked for.
    """

    __slots__ = ("is_counted", "key", "landing", "started_ns", "ticket", "transfer")

    def __init__(self, key: ExpertKey, landing: Landing) -> None:
        self.key, self.landing, self.started_ns = key, landing, perf_counter_ns()
        self.ticket: ReadTicket | None = None
        self.transfer: Event | None = None
        self.is_counted = False

    @property
    def landed(self) -> bool:
        """Whether the read is over and all of it came."""
        return self.ticket is not None and self.ticket.is_done and self.ticket.error is None

    def count(self, totals: ExpertCounters) -> None:
        """Count a read that is over, once; say what went wrong."""
        ticket = self.ticket
        assert ticket is not None
        if ticket.error is None:
            if not self.is_counted:
                self.is_counted = True
                totals.count_read(ticket.elapsed_ns)
        elif not isinstance(ticket.error, ReadCancelled):
            _log.warning("expert not read: %s", ticket.error)

    def failed_transfer(self, err: DeviceError) -> ExpertTransferError:
        """Return what to say of a transfer that failed."""
        _log.warning("expert not transferred: %s", err)
        layer_idx, expert_idx = self.key
        return ExpertTransferError(
            f"layer {layer_idx}, expert {expert_idx}: it was read, but its transfer to the device failed: {err}"
        )


def wait_for(event: Event, timeout_s: float) -> None:
    """Wait for work whose outcome does not matter."""
    try:
        event.wait(timeout_s)
    except DeviceError as err:
        _log.warning("given up: %s", err)
