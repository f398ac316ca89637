"""Requests start at about the same temperature: a hot board throttles, and that is no figure of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import monotonic, sleep
from typing import Any

_POLL_S = 0.25


@dataclass(frozen=True)
class Passed:
    """How a request got past the gate.

    Attributes:
        hottest_c: the hottest zone when it started; None if no temperature can be read.
        limit_c: what it had to cool down to; None before the first.
        waited_s: for how long it waited.
        is_met: whether it was cool enough; None where there is nothing to tell by.
    """

    hottest_c: float | None
    limit_c: float | None
    waited_s: float
    is_met: bool | None

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


class ThermalGate:
    """Holds a request until the machine is at most a little hotter than when the first one started.

    Args:
        read: returns the hottest zone in degrees Celsius, None if none can be read.
        rise_c: how much hotter it may be.
        limit_s: longest wait; 0 never waits.
        clock, pause: of the waiting.
    """

    def __init__(
        self,
        read: Callable[[], float | None],
        *,
        rise_c: float,
        limit_s: float,
        clock: Callable[[], float] = monotonic,
        pause: Callable[[float], None] = sleep,
    ) -> None:
        self._read, self._rise_c, self._limit_s = read, rise_c, limit_s
        self._clock, self._pause = clock, pause
        self._first_c: float | None = None

    def wait(self) -> Passed:
        """Wait as long as it takes, or as long as is allowed."""
        started, hottest = self._clock(), self._read()
        if self._first_c is None or hottest is None:
            self._first_c = hottest if self._first_c is None else self._first_c
            return Passed(hottest, None, 0.0, None)
        limit = self._first_c + self._rise_c
        while hottest is not None and hottest > limit and self._clock() - started < self._limit_s:
            self._pause(_POLL_S)
            hottest = self._read()
        waited = round(self._clock() - started, 3)
        return Passed(hottest, round(limit, 3), waited, None if hottest is None else hottest <= limit)
