"""States that cannot be cut: written aside, swapped at commit, kept where a prompt may go on."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.backends.cpu.trunk.kv_cache import HostKVCache
from edge_runtime.backends.cpu.trunk.recurrent import SNAPSHOTS
from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import RequestError
from edge_runtime.base.spec import StateArray

ARRAYS = [[StateArray("k", (1, 2), True)], [StateArray("conv", (3, 4), False), StateArray("state", (2, 5), False)]]


def run(kv: HostKVCache, tokens: int, *, commit: bool = True) -> None:
    """A pass whose state after n tokens is n everywhere; its keys are their positions."""
    stops, start = kv.begin(tokens), kv.length
    kv.write(0, [np.arange(start, start + tokens, dtype=np.float32).repeat(2).reshape(1, 1, tokens, 2)])
    for stop in stops:
        for array in kv.fixed.of(1, stop.slot):
            array[:] = start + stop.tokens
    assert state(kv) == start  # until it is committed
    if commit:
        kv.advance(tokens)


def state(kv: HostKVCache) -> float:
    found = {float(v) for array in kv.fixed.of(1, kv.fixed.current) for v in array.ravel()}
    assert len(found) == 1
    return found.pop()


def keys(kv: HostKVCache) -> F32:
    return kv.past(0)[0][0, 0, : kv.length, 0]


def test_a_pass_that_fails_leaves_the_state_as_it_was() -> None:
    kv = HostKVCache(ARRAYS, 100)
    run(kv, 7)
    run(kv, 5, commit=False)
    assert (kv.length, state(kv)) == (7, 7)
    run(kv, 3)
    assert (kv.length, state(kv)) == (10, 10)


def test_the_last_commit_can_be_undone_once_and_other_lengths_cannot_be_reached() -> None:
    kv = HostKVCache(ARRAYS, 100)
    for tokens in (7, 5, 1):
        run(kv, tokens)
    assert [kv.nearest(n) for n in (100, 13, 12, 11)] == [13, 13, 12, 7]
    with pytest.raises(RequestError, match="cannot be cut after 10 tokens, the nearest one kept is after 7"):
        kv.truncate(10)
    kv.truncate(12)
    assert (kv.length, state(kv), kv.nearest(50)) == (12, 12, 12)
    run(kv, 1)
    assert state(kv) == 13


def test_snapshots_are_taken_within_a_pass_and_at_its_end_and_outlive_decoding() -> None:
    kv = HostKVCache(ARRAYS, 100)
    kv.want([10, 20])
    run(kv, 16)  # over 10
    run(kv, 4)  # to 20
    for _ in range(30):
        run(kv, 1)
    assert [kv.nearest(n) for n in (49, 48, 19, 9)] == [49, 20, 10, 0]
    kv.truncate(20)
    assert state(kv) == 20
    run(kv, 6)
    kv.truncate(10)
    assert (state(kv), kv.nearest(26)) == (10, 10)
    kv.truncate(0)
    assert (state(kv), kv.length) == (0, 0)


def test_the_snapshot_used_longest_ago_makes_room() -> None:
    kv = HostKVCache(ARRAYS, 100)
    kv.want([5, 10])
    run(kv, 12)
    kv.truncate(5)
    kv.want([8])  # 10 went with what was cut
    run(kv, 9)
    run(kv, 9)
    run(kv, 9)
    assert [kv.nearest(n) for n in (7, 12)] == [5, 8]
    kv.want([40, 50])
    run(kv, 30)
    assert [kv.nearest(n) for n in (45, 55)] == [40, 50]
    assert SNAPSHOTS == 2
    assert kv.nearest(20) == 0


def test_a_copy_starts_from_a_snapshot_and_shares_nothing() -> None:
    source, target = HostKVCache(ARRAYS, 100), HostKVCache(ARRAYS, 100)
    source.want([10])
    run(source, 16)
    run(target, 3)
    with pytest.raises(RequestError, match="after 12 tokens"):
        target.copy_from(source, 12)
    assert target.length == 3
    target.copy_from(source, 10)
    assert (target.length, state(target)) == (10, 10)
    np.testing.assert_array_equal(keys(target), np.arange(10))
    run(target, 5)
    run(target, 5)
    assert (state(source), state(target), target.nearest(12)) == (16, 20, 10)
    target.reset()
    assert (state(target), target.nearest(99)) == (0, 0)


def test_all_of_it_is_counted() -> None:
    kv = HostKVCache(ARRAYS, 100)
    assert kv.nbytes == 4 * (2 * 100 + (SNAPSHOTS + 2) * (3 * 4 + 2 * 5))
