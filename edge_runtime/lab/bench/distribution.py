"""What the plots of a report show: how the gaps between tokens are spread, over all requests and in each. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edge_runtime.telemetry.samples import percentiles

_BINS = 40
_ROOM = 1.25
"""The axis ends at that many times the 99th percentile; what is slower is counted together."""


@dataclass(frozen=True)
class Histogram:
    """Gaps by size.

    Attributes:
        width_ms: of a bin; the first begins at 0.
        percents: of all gaps, one a bin; the sum is 100 less `beyond_percent`.
        beyond_percent: of gaps beyond the last bin.
        largest_ms: the largest gap.
        count: gaps.
    """

    width_ms: float
    percents: tuple[float, ...]
    beyond_percent: float
    largest_ms: float
    count: int

    @property
    def end_ms(self) -> float:
        """Where the last bin ends."""
        return self.width_ms * len(self.percents)


@dataclass(frozen=True)
class Spread:
    """The gaps of one request, in ms."""

    p10: float
    median: float
    p90: float


def histogram(gaps: Sequence[float]) -> Histogram:
    """Count gaps in bins of equal width up to a little beyond their 99th percentile."""
    if not gaps:
        return Histogram(1.0, (0.0,), 0.0, 0.0, 0)
    largest = max(gaps)
    (p99,) = percentiles(gaps, (99,))
    end = min(largest * 1.0001, _ROOM * (p99 or 0.0)) or 1.0
    width = end / _BINS
    counts = [0] * _BINS
    for gap in gaps:
        if gap < end:
            counts[int(gap / width)] += 1
    share = 100 / len(gaps)
    return Histogram(width, tuple(n * share for n in counts), (len(gaps) - sum(counts)) * share, largest, len(gaps))


def spreads(requests: Sequence[Sequence[float]]) -> list[Spread]:
    """Return the spread of each request that has gaps."""
    found = (percentiles(gaps, (10, 50, 90)) for gaps in requests if gaps)
    return [Spread(p10, median, p90) for p10, median, p90 in found if None not in (p10, median, p90)]  # type: ignore[arg-type]


def ticks(top: float, count: int = 5) -> list[float]:
    """Return round numbers from 0 to at most `top`, about `count` of them."""
    if top <= 0:
        return [0.0]
    step = 10 ** math.floor(math.log10(top / count))
    step *= next(factor for factor in (1, 2, 5, 10) if top / (factor * step) <= count + 0.5)
    return [step * number for number in range(int(top / step) + 1)]
