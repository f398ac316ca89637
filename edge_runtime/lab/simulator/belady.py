"""Belady's optimum for a recorded sequence of requests: the fewest bytes any eviction rule could have read.

With records of one size, evicting what is used again last is optimal, and the figure is exact. With mixed tiers the
problem is NP-hard, so the optimum is bounded from both sides: above by the same greedy choice over segments, which is a
schedule one could follow; below by a relaxation (PFOO-L, Berger et al., SIGMETRICS 2018) that holds memory full on
average instead of at each step. A segment is kept or dropped on its own in the lower bound; in the upper one a deeper
segment always goes before the one it builds on.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edge_runtime.base.arrays import I64
from edge_runtime.lab.simulator.requests import RequestLog


@dataclass(frozen=True)
class Optimum:
    """Bytes read by the best possible eviction.

    Attributes:
        lower_bytes: no rule reads less.
        upper_bytes: a rule that knows the future reads this.
        exact: the two are one figure, the optimum.
    """

    lower_bytes: int
    upper_bytes: int
    exact: bool


@dataclass(frozen=True)
class _Units:
    """Requests split into units (an expert's segment), sorted by step.

    Attributes:
        step: int64 [N], when.
        unit: int64 [N], which; expert * segments + segment.
        size: int64 [N], its bytes.
        next_step: int64 [N], when it is asked for again; `steps` if never.
        steps: number of steps.
    """

    step: I64
    unit: I64
    size: I64
    next_step: I64
    steps: int


def optimum(log: RequestLog, tier_bytes: Mapping[int, int], budget_bytes: int) -> Optimum:
    """Bound the bytes an eviction rule must read for these requests.

    Args:
        log: who was asked for, at which tier.
        tier_bytes: bytes of an expert at each tier a cache may keep one at, requested or not: of a record that does
            not fit whole, a prefix may stay. A lower tier is a prefix of a higher one.
        budget_bytes: size of the cache.
    """
    units = _split(log, tier_bytes)
    upper = _farthest_first(units, budget_bytes)
    if len(np.unique(units.size)) <= 1:
        return Optimum(upper, upper, exact=True)
    return Optimum(_relaxed(units, budget_bytes), upper, exact=False)


def _split(log: RequestLog, tier_bytes: Mapping[int, int]) -> _Units:
    steps, keys, tiers = log.steps(), log.keys(), log.tiers()
    used = sorted(tier for tier in tier_bytes if tier <= tiers.max(initial=0))
    sizes = np.diff([0, *(tier_bytes[tier] for tier in used)])
    parts = [np.flatnonzero(tiers >= tier) for tier in used]
    segment = np.repeat(np.arange(len(used)), [len(part) for part in parts])
    index = np.concatenate([*parts, np.empty(0, np.intp)])
    order = np.lexsort((segment, index))
    index, segment = index[order], segment[order]
    unit, step = keys[index].astype(np.int64) * max(len(used), 1) + segment, steps[index].astype(np.int64)
    total = int(steps[-1]) + 1 if len(steps) else 0
    return _Units(step, unit, sizes[segment].astype(np.int64), _next_use(unit, step, total), total)


def _next_use(unit: I64, step: I64, total: int) -> I64:
    order = np.lexsort((step, unit))
    following = np.full(len(unit), total, np.int64)
    same = unit[order][1:] == unit[order][:-1]
    following[order[:-1][same]] = step[order[1:][same]]
    return following


def _farthest_first(units: _Units, budget: int) -> int:
    """Bytes read when what is used again last goes first, deeper segments before those they build on."""
    held: dict[int, tuple[int, int]] = {}  # unit -> (next use, bytes)
    heap: list[tuple[int, int]] = []  # (-next use, -unit); entries no longer true are skipped
    used = read = 0
    bounds = np.searchsorted(units.step, np.arange(units.steps + 1))
    unit, size, following = units.unit.tolist(), units.size.tolist(), units.next_step.tolist()
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        for i in range(first, last):
            if unit[i] not in held:
                read += size[i]
                used += size[i]
            held[unit[i]] = following[i], size[i]
        now = set(unit[first:last])
        while used > budget and heap:
            entry = heapq.heappop(heap)
            victim = held.get(-entry[1])
            if victim is not None and victim[0] == -entry[0] and -entry[1] not in now:
                used -= victim[1]
                del held[-entry[1]]
        for i in range(first, last):
            heapq.heappush(heap, (-following[i], -unit[i]))
    return read


def _relaxed(units: _Units, budget: int) -> int:
    """PFOO-L: the cheapest intervals between two uses of a segment are held, as far as memory x time goes."""
    asked = np.bincount(units.step, units.size, units.steps)
    room = float(np.maximum(budget - asked, 0).sum())
    again = units.next_step < units.steps
    gap, size = (units.next_step - units.step - 1)[again], units.size[again]
    order = np.argsort(gap, kind="stable")
    cost = np.cumsum((gap * size)[order].astype(np.float64))
    fits = cost <= room
    saved = float(size[order][fits].sum())
    if not fits.all():  # part of the first that does not fit: a bound may split what a cache cannot
        first = int(fits.argmin())
        saved += (room - (float(cost[first - 1]) if first else 0.0)) / float(gap[order][first])
    return int(np.ceil(float(units.size.sum()) - saved))
