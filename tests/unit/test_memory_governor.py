"""Elastic memory: shrinks in time, grows back, does not thrash, and is never slower than a small cache that stays."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from edge_runtime.config.cgroups import MemoryGroup
from edge_runtime.config.limits import OwnMemory, SystemLimits, limits_of
from edge_runtime.config.pressure import Pressure, allowed_bytes
from edge_runtime.engine.elastic.governor import Habits, MemoryGovernor

MIB = 1 << 20
MOST, FLOOR = 1024 * MIB, 128 * MIB
TICK_S = 0.1
Demand = Callable[[float], float]
"""Seconds to MiB that others take."""


def run(demand: Demand, seconds: float, *, habits: Habits | None = None, machine: int = 1200) -> Iterator[tuple]:
    """Yield (second, bytes allowed, budget) while a competitor's demand goes its way."""
    governor = MemoryGovernor(floor_bytes=FLOOR, most_bytes=MOST, habits=habits)
    budget = MOST
    for tick in range(int(seconds / TICK_S)):
        now = tick * TICK_S
        allowed = int((machine - demand(now)) * MIB)
        wanted = governor.decide(now, Pressure(allowed), budget)
        budget = budget if wanted is None else wanted
        yield now, allowed, budget
    yield governor.moves.shrunk, governor.moves.grown, governor.moves.least_bytes


def test_with_memory_to_spare_nothing_moves():
    *steps, moves = run(lambda now: 100, 60)
    assert {budget for _, _, budget in steps} == {MOST}
    assert moves == (0, 0, None)


@pytest.mark.parametrize("speed", [10, 100, 400, 1000])
def test_it_shrinks_before_memory_is_gone(speed):
    """A competitor takes so many MiB a second: the budget is below what there is, or becomes so within one tick."""
    *steps, _ = run(lambda now: 100 + min(speed * now, 900), 100)
    for (_, _, before), (_, allowed, _) in pairwise(steps):
        assert before <= max(allowed, FLOOR) + speed * TICK_S * MIB + 2
    assert steps[-1][2] <= steps[-1][1]


@pytest.mark.parametrize("speed", [50, 200, 800])
def test_when_the_fall_is_over_no_more_is_given_than_it_came_to(speed):
    """Beyond a margin, and what would have come in two looks: the rest would have to be read again."""
    *_, moves = run(lambda now: 100 + min(speed * max(now - 5, 0), 400), 15)
    margin = MOST // 32
    assert moves[2] >= 700 * MIB - margin - 2 * TICK_S * speed * MIB - 1
    assert moves[2] <= 700 * MIB


@pytest.mark.parametrize("step", [1, 4, 30])
def test_who_looks_seldom_looks_further_ahead(step):
    """Passes that take long: still below what there is at the next look, as far as a second tells."""
    governor, budget = MemoryGovernor(floor_bytes=FLOOR, most_bytes=MOST), MOST
    for tick in range(0, 120, step):
        now = tick * TICK_S
        allowed = int((1200 - 60 * now) * MIB)
        if budget != MOST and step * TICK_S <= 1:
            assert budget <= allowed
        budget = governor.decide(now, Pressure(allowed), budget) or budget


def test_it_grows_back_when_memory_was_free_for_a_while():
    *steps, moves = run(lambda now: 700 if 10 <= now < 20 else 100, 60)
    during = [budget for now, _, budget in steps if 11 < now < 20]
    assert max(during) <= 500 * MIB
    assert {budget for now, _, budget in steps if 20 <= now < 24.8} == {during[-1]}, "not at once"
    assert steps[-1][2] == MOST
    assert moves[:2] == (1, 1)


def test_a_competitor_that_comes_and_goes_quickly_is_given_room_for_good():
    """Demand that oscillates faster than memory has to be free: one shrink, and no growing into the gaps."""
    *_, moves = run(lambda now: 700 if int(now) % 2 else 100, 600)
    assert moves[:2] == (1, 0)


@pytest.mark.parametrize("period", [8, 12, 20, 40])
def test_growing_into_gaps_becomes_rare(period):
    """Demand that comes back after every growth: the waits double, so an hour sees a few moves, not hundreds."""
    *steps, moves = run(lambda now: 700 if now % period < period / 3 else 100, 3600)
    assert moves[0] <= 1 + math.log2(Habits().most_calm_s / Habits().calm_s) + 3600 / Habits().most_calm_s
    assert all(budget <= max(allowed, FLOOR) + 1 for _, allowed, budget in steps[20:] if budget != MOST)


def test_rare_demand_is_forgiven():
    """Ten minutes between two peaks: it grows back after each, and waits no longer than at first."""
    *steps, moves = run(lambda now: 700 if now % 600 < 5 and now >= 600 else 100, 3600)
    assert moves[0] == 5
    assert moves[1] == 5
    for peak in range(600, 3600, 600):
        grown = next(now for now, _, budget in steps if now > peak + 5 and budget == MOST)
        assert grown <= peak + 5 + 2 * Habits().calm_s


def test_it_never_goes_below_the_floor():
    *steps, _ = run(lambda now: 1190, 30)
    assert steps[-1][2] == FLOOR
    assert len({budget for _, _, budget in steps}) == 1


def test_small_changes_are_not_followed():
    """Memory that wanders by less than the margin moves nothing, on either side."""
    draw = random.Random(1)
    wander = [draw.uniform(-14, 14) for _ in range(100_000)]
    *_, moves = run(lambda now: 450 + wander[int(now / TICK_S)], 3600)
    assert moves[0] <= 3
    assert moves[1] == 0


def stalls(governor: MemoryGovernor, allowed: int, budget: int, share: float, seconds: float) -> int:
    """Let tasks stall for a share of the time; return the budget in the end."""
    for tick in range(int(seconds / TICK_S)):
        pressure = Pressure(allowed, int(share * tick * TICK_S * 1e6))
        budget = governor.decide(tick * TICK_S, pressure, budget) or budget
    return budget


def test_stalls_near_the_edge_are_heeded_and_others_are_not():
    def governor():
        return MemoryGovernor(floor_bytes=FLOOR, most_bytes=MOST)

    near = 600 * MIB
    assert stalls(governor(), near + 10 * MIB, near, 0.0, 3) == near
    assert stalls(governor(), near + 10 * MIB, near, 0.3, 3) < near
    assert stalls(governor(), 2 * MOST, near, 0.3, 30) == near, "others stall: not for our memory; but no growing"
    assert stalls(governor(), 2 * MOST, near, 0.0, 30) == MOST


def test_what_may_not_grow_now_grows_later():
    governor = MemoryGovernor(floor_bytes=FLOOR, most_bytes=MOST)
    for tick in range(100):
        assert governor.decide(tick * TICK_S, Pressure(2 * MOST), MOST // 2, may_grow=False) is None
    assert governor.moves.grown == 0
    assert governor.decide(10, Pressure(2 * MOST), MOST // 2) == MOST


def test_what_is_allowed_does_not_change_with_what_is_taken():
    for own in (OwnMemory(), OwnMemory(300 * MIB), OwnMemory(500 * MIB), OwnMemory(200 * MIB, 300 * MIB)):
        held = own.anonymous_bytes + own.driver_bytes
        meminfo = f"MemTotal: {4 << 20} kB\nMemAvailable: {(1000 * MIB - held) >> 10} kB\n".encode()
        assert allowed_bytes(limits_of(meminfo, [], own), 100 * MIB, None) == 900 * MIB
        files = {
            "memory.max": 512 * MIB,
            "memory.current": held,
            "memory.stat": f"anon {max(1, own.anonymous_bytes)}\nfile 0",
        }
        group = MemoryGroup(Path("/x"), lambda path, files=files: str(files.get(path.name, "")).encode())
        free = b"MemTotal: 4194304 kB\nMemAvailable: 4194304 kB\n"
        assert allowed_bytes(limits_of(free, [group], own), 100 * MIB, None) == (512 - 16) * MIB
    assert allowed_bytes(SystemLimits(4096 * MIB, 2000 * MIB), 0, 64 * MIB) == 64 * MIB
    assert allowed_bytes(SystemLimits(4096 * MIB, 10 * MIB), 100 * MIB, None) == 0


def test_what_is_far_beyond_any_use_makes_no_difference():
    """Memory beyond what it wants to know of comes and goes: nobody shrinks ahead of a fall that ends far away."""
    governor = MemoryGovernor(floor_bytes=FLOOR, most_bytes=MOST)
    far = governor.enough_bytes
    for tick in range(200):
        falling = far + max(0, 200 - tick) * 300 * MIB
        assert governor.decide(tick * TICK_S, Pressure(falling), MOST) is None


def test_a_fall_from_far_away_is_seen_coming():
    """As fast as it crosses what is of no use: the budget is below what there is, or becomes so within one look."""
    governor, budget = MemoryGovernor(floor_bytes=FLOOR, most_bytes=MOST), MOST
    for tick in range(100):
        allowed = max(300, 4096 - 200 * tick * TICK_S * 10) * MIB
        assert budget <= max(allowed + 2000 * TICK_S * MIB, FLOOR)
        budget = governor.decide(tick * TICK_S, Pressure(int(allowed)), budget) or budget
    assert budget <= 300 * MIB
