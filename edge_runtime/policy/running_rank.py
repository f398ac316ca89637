"""Which values are among the lowest of those seen lately: a threshold that keeps a stated rate by itself. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque

_ROUNDING = 1e-9


class RunningRank:
    """Tells the lowest share of a running series apart, without a threshold somebody has to choose.

    A value is low if no more than ``floor(share (n + 1))`` of it and the last n are as low as it is, itself included.
    Where the order of values is by chance, a value has every rank among n + 1 equally often, so at most `share` of
    them are low, whatever their distribution (the rank argument of conformal prediction). Equal values are not low
    for being equal. The first ones of a series seldom are: a fifth of four is none.

    Args:
        share: of the values that are to be low, 0 to 1.
        window: last values that are compared with.
    """

    def __init__(self, share: float, window: int) -> None:
        self._share, self._window = share, window
        self._in_order: deque[float] = deque()
        self._sorted: list[float] = []

    def clear(self) -> None:
        """Forget every value."""
        self._in_order.clear()
        self._sorted.clear()

    def is_low(self, value: float) -> bool:
        """Return whether a value is low among the last ones, and add it to them."""
        seen = self._sorted
        rank = bisect_right(seen, value) + 1
        is_low = rank <= int(self._share * (len(seen) + 1) + _ROUNDING)
        self._add(value)
        return is_low

    def _add(self, value: float) -> None:
        if len(self._in_order) == self._window:
            del self._sorted[bisect_left(self._sorted, self._in_order.popleft())]
        self._in_order.append(value)
        insort(self._sorted, value)
