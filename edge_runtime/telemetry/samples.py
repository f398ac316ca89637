"""Statistics of the samples of one quantity: median, 10th and 90th percentile, count; and division of wall time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

DIGITS = 3


def summary(samples: Iterable[float | None]) -> dict[str, Any]:
    """Return ``{"median", "p10", "p90", "n", "samples"}``; what was not measured (None) is left out.

    The percentiles interpolate between neighbours. Without a sample they are None and n is 0.
    """
    found = [float(value) for value in samples if value is not None]
    low, middle, high = percentiles(found, (10, 50, 90))
    return {"median": middle, "p10": low, "p90": high, "n": len(found), "samples": [rounded(v) for v in found]}


def percentiles(samples: Sequence[float], which: Sequence[int]) -> list[float | None]:
    """Return percentiles of the samples, rounded; None each if there is no sample."""
    if not len(samples):
        return [None] * len(which)
    return [rounded(float(value)) for value in np.percentile(np.asarray(samples, np.float64), which)]


def rounded(value: float | None) -> float | None:
    """Return a value with at most DIGITS decimals; None stays None."""
    return None if value is None else round(float(value), DIGITS)


def rate(count: float, nanoseconds: float) -> float | None:
    """Return how many a second; None where no time passed or nothing was counted."""
    return count * 1e9 / nanoseconds if nanoseconds > 0 and count > 0 else None


def shares(phases: Mapping[str, int]) -> dict[str, float]:
    """Return each phase's share of their sum, in percent; empty if nothing was timed."""
    total = sum(phases.values())
    return {name: round(100 * ns / total, 2) for name, ns in phases.items()} if total > 0 else {}


def phases(wall_ns: int, spans: Mapping[str, int], read_wait_ns: int) -> dict[str, int]:
    """Divide wall time into the engine's spans, the wait for reads, and `other`: whatever nobody timed.

    Args:
        wall_ns: nanoseconds from start to end.
        spans: nanoseconds by phase; they do not overlap. A phase 'cache' includes the wait; otherwise none does.
        read_wait_ns: nanoseconds waited for experts with nothing to compute.
    """
    known = dict(spans) | {"read_wait": read_wait_ns}
    if "cache" in known:
        known["cache"] = max(known["cache"] - read_wait_ns, 0)
    return known | {"other": max(wall_ns - sum(known.values()), 0)}
