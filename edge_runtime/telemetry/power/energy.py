"""Readings of a power meter integrated to joules. Pure: it knows times and values, and no clock.

Power is integrated by the trapezoidal rule. Between two readings that lie too far apart, or where one of them is
missing, the energy of a rail is unknown; a stretch of time that touches such a gap has no figure for that rail.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from math import isnan, nan
from typing import NamedTuple

from edge_runtime.telemetry.power.base import MOST_W, MeterInfo, Values

MIN_SAMPLES = 3
"""A stretch of time with fewer readings in it has no figure: the meter is too slow for it."""


class Window(NamedTuple):
    """Energy of a stretch of time.

    Attributes:
        seconds: its length.
        samples: readings within it.
        joules: by rail; rails whose energy is unknown are left out.
        total: joules of the whole machine as far as the meter covers it; None if it is not known.
    """

    seconds: float
    samples: int
    joules: dict[str, float]
    total: float | None

    @property
    def watts(self) -> dict[str, float]:
        """Mean power by rail."""
        return {rail: joules / self.seconds for rail, joules in self.joules.items()}

    @property
    def mean_w(self) -> float | None:
        """Mean power of the total."""
        return None if self.total is None else self.total / self.seconds


class _Track:
    """Energy of one rail over time."""

    def __init__(self) -> None:
        self.at, self.joules, self.watts, self.stretch = array("q"), array("d"), array("d"), array("l")
        self.counted = 0.0

    def add(self, at_ns: int, joules: float, watts: float, *, goes_on: bool) -> None:
        number = self.stretch[-1] + (not goes_on) if len(self.stretch) else 0
        self.at.append(at_ns)
        self.joules.append(joules)
        self.watts.append(watts)
        self.stretch.append(number)

    def at_time(self, at_ns: int, reach_ns: int) -> tuple[float, int] | None:
        """Return joules at a time and the unbroken stretch it lies in; up to `reach_ns` past the last reading."""
        place = bisect_right(self.at, at_ns) - 1
        if place < 0:
            return None
        passed = at_ns - self.at[place]
        if place + 1 == len(self.at):
            if passed > reach_ns or (passed and isnan(self.watts[place])):
                return None
            if not passed:
                return self.joules[place], self.stretch[place]
            return self.joules[place] + self.watts[place] * passed / 1e9, self.stretch[place]
        if self.stretch[place + 1] != self.stretch[place] and passed:
            return None
        share = passed / (self.at[place + 1] - self.at[place])
        return self.joules[place] + share * (self.joules[place + 1] - self.joules[place]), self.stretch[place]

    def drop(self, count: int) -> None:
        del self.at[:count], self.joules[:count], self.watts[:count], self.stretch[:count]


class EnergyLog:
    """What a meter said, and the energy that follows from it.

    Args:
        info: of the meter.
        interval_ns: time between readings; twice as much and more is a gap.
        keep: readings kept at least; a window that begins before them has no figure.
    """

    def __init__(self, info: MeterInfo, interval_ns: int, keep: int) -> None:
        self.info, self._keep = info, keep
        self._reach_ns = 2 * interval_ns
        self._gap_ns = max(4 * interval_ns, 1_000_000_000)
        self._tracks = {rail: _Track() for rail in info.rails}
        self._at = array("q")
        self._is_missing: dict[str, bool] = dict.fromkeys(info.rails, True)

    def add(self, at_ns: int, values: Values) -> None:
        """Note what every rail said at a time later than those before."""
        sound = self._sound(values)
        self._at.append(at_ns)
        for rail, track in self._tracks.items():
            value = sound.get(rail)
            if value is None:
                self._is_missing[rail] = True
                continue
            self._extend(rail, track, at_ns, value)
        if len(self._at) > 2 * self._keep:
            self._forget(self._at[len(self._at) - self._keep])

    def _sound(self, values: Values) -> Values:
        """Return the values, without those of a total that says nothing at all is used."""
        total = self.info.total
        if not self.info.counts_energy and total and not any(values.get(rail) for rail in total):
            return {rail: value for rail, value in values.items() if rail not in total}
        return values

    def _extend(self, rail: str, track: _Track, at_ns: int, value: float) -> None:
        is_first = not len(track.at)
        seconds = 0.0 if is_first else (at_ns - track.at[-1]) / 1e9
        goes_on = not self._is_missing[rail] and 0 < seconds <= self._gap_ns / 1e9
        watts, used = value, 0.0
        if self.info.counts_energy:
            used, track.counted = value - track.counted, value
            goes_on = goes_on and 0 <= used <= MOST_W * seconds
            watts = used / seconds if goes_on else nan
        elif goes_on:
            used = (track.watts[-1] + value) / 2 * seconds
        self._is_missing[rail] = False
        so_far = 0.0 if is_first else track.joules[-1]
        track.add(at_ns, so_far + used if goes_on else so_far, watts, goes_on=goes_on)

    def _forget(self, before_ns: int) -> None:
        for track in self._tracks.values():
            track.drop(max(bisect_right(track.at, before_ns) - 1, 0))
        del self._at[: bisect_right(self._at, before_ns) - 1]

    def reaches(self, at_ns: int) -> bool:
        """Whether the last reading is near enough to a time to say what was used until then."""
        return len(self._at) > 0 and at_ns - self._at[-1] <= self._reach_ns

    def window(self, start_ns: int, end_ns: int) -> Window | None:
        """Return the energy between two times; None if there are too few readings between them or nothing is known."""
        samples = bisect_right(self._at, end_ns) - bisect_right(self._at, start_ns - 1)
        if samples < MIN_SAMPLES or end_ns <= start_ns:
            return None
        joules = {}
        for rail, track in self._tracks.items():
            start, end = track.at_time(start_ns, 0), track.at_time(end_ns, self._reach_ns)
            if start is not None and end is not None and start[1] == end[1]:
                joules[rail] = end[0] - start[0]
        return Window((end_ns - start_ns) / 1e9, samples, joules, total_of(self.info, joules)) if joules else None

    def latest_watts(self) -> dict[str, float]:
        """Return the power of every rail that answered at the last reading."""
        return {
            rail: track.watts[-1]
            for rail, track in self._tracks.items()
            if not self._is_missing[rail] and not isnan(track.watts[-1])
        }

    def joules_so_far(self) -> dict[str, float]:
        """Return each rail's energy since its first reading, gaps left out; rails that never answered are absent."""
        return {rail: track.joules[-1] for rail, track in self._tracks.items() if len(track.at)}

    def samples(self, start_ns: int, end_ns: int) -> dict[str, list[tuple[int, float]]]:
        """Return the readings of each rail between two times: when, and watts."""
        found = {}
        for rail, track in self._tracks.items():
            first, last = bisect_right(track.at, start_ns - 1), bisect_right(track.at, end_ns)
            pairs = zip(track.at[first:last], track.watts[first:last], strict=True)
            found[rail] = [(at, watts) for at, watts in pairs if not isnan(watts)]
        return found


def total_of(info: MeterInfo, by_rail: Mapping[str, float]) -> float | None:
    """Return the sum over the rails of the total; None if no such sum is known, or one of them is missing."""
    return _sum(by_rail.get(rail) for rail in info.total)


def _sum(values: Iterable[float | None]) -> float | None:
    found = list(values)
    return None if not found or None in found else sum(v for v in found if v is not None)
