"""SlotsInUse: slots whose experts were handed out, pinned until no kernel reads them any more."""

from __future__ import annotations

import logging
from itertools import takewhile

from edge_runtime.backends.memory import Event, MemorySpace
from edge_runtime.base.errors import DeviceError
from edge_runtime.experts.residency import SlotTable

_log = logging.getLogger(__name__)
COMPUTE_TIMEOUT_S = 30.0
"""Longest wait for expert kernels."""


class SlotsInUse:
    """Unpins slots when the work that reads them is over: at once where kernels return when they are done.

    Args:
        table: holds the pins.
        space: says how far kernels have come.
    """

    def __init__(self, table: SlotTable, space: MemorySpace) -> None:
        self._table, self._space = table, space
        self._until: dict[int, Event] = {}  # by slot, the oldest first

    def __len__(self) -> int:
        """Slots that kernels may still read."""
        return len(self._until)

    def hold(self, slots: list[int]) -> None:
        """A layer needs these slots: they stay pinned until it releases them, whatever used them before."""
        if self._until:
            for slot in slots:
                self._until.pop(slot, None)

    def release(self, slots: list[int]) -> None:
        """Kernels were given everything that reads these slots: unpin them when that work is over."""
        fence = self._space.fence()
        if fence is None:
            self._table.unpin(slots)
        else:
            self._until.update(dict.fromkeys(slots, fence))

    def reclaim(self, timeout_s: float = 0.0) -> None:
        """Unpin the slots whose work is over; wait for the oldest, if a time is given.

        Raises:
            DeviceError: that work failed, or did not end in time.
        """
        if timeout_s and self._until and not next(iter(self._until.values())).wait(timeout_s):
            raise _stuck(timeout_s)
        over = [slot for slot, _ in takewhile(_is_over, self._until.items())]
        self._table.unpin(over)
        for slot in over:
            del self._until[slot]

    def wait(self, timeout_s: float) -> None:
        """Wait until no kernel given so far may read any slot; whoever unpins them all asks first.

        Raises:
            DeviceError: that work failed, or did not end in time.
        """
        fence = self._space.fence()
        if fence is not None and not fence.wait(timeout_s):
            raise _stuck(timeout_s)
        self._until.clear()

    def give_up(self) -> None:
        """Wait for work whose outcome does not matter; then nothing is in use."""
        try:
            self.wait(COMPUTE_TIMEOUT_S)
        except DeviceError as err:
            _log.warning("given up: %s", err)
            self._until.clear()


def _is_over(use: tuple[int, Event]) -> bool:
    return use[1].is_done()


def _stuck(timeout_s: float) -> DeviceError:
    return DeviceError(f"device: expert kernels did not end within {timeout_s:g} s. Check it (dmesg).")
