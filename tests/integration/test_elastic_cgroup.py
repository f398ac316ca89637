"""Elastic memory in a real cgroup, beside a process that takes memory and gives it back: `make elastic-check`.

Needs root and a minute or two. What is counted holds on a busy machine too; how fast it is, benchmarks/bench_elastic.py
measures.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from elastic_pair import MIB, Eater, Group, export_experts, side_by_side

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    try:
        Group(480 * MIB).remove()
    except OSError as err:
        pytest.skip(f"NO MEMORY CGROUP: elastic memory was not tested in a real one here ({err})")
    return export_experts(tmp_path_factory.mktemp("elastic"))


def same_requests(mine: list[dict], theirs: list[dict]) -> tuple[list[dict], list[dict]]:
    """The requests that both answered: the first ones of each, which are the same."""
    length = min(len(mine), len(theirs))
    assert length >= 16, "each of the eight requests was asked more than once"
    return mine[:length], theirs[:length]


def read(lines: list[dict]) -> int:
    return sum(line["read"] for line in lines)


def test_an_elastic_cache_in_a_cgroup_beside_a_process_that_comes_and_goes(bundle):
    # it stays away long enough to let the cache grow: what is free has to be so for 5 s
    eater = Eater(200 * MIB, first=6, stays=6, away=18)
    options = {"memory": 200 * MIB}, {"elastic": True}
    (small, ready), (elastic, full) = side_by_side(bundle, 480 * MIB, eater, *options, seconds=44)
    assert ready["ready"] < full["ready"]
    slots = [line["slots"] for line in elastic]
    moves = elastic[-1]["elastic"]
    print("slots:", sorted(set(slots)), "of", full["all"], moves)
    assert min(slots) < 0.8 * max(slots), "it gave memory back"
    assert any(later > earlier for earlier, later in pairwise(slots)), "it took memory again"
    assert moves["shrunk"] >= 1
    assert moves["grown"] >= 1
    mine, theirs = same_requests(elastic, small)
    assert [line["ids"] for line in mine] == [line["ids"] for line in theirs], "tokens do not change"
    print(f"MiB read for {len(mine)} requests: elastic {read(mine) / MIB:.0f}, small {read(theirs) / MIB:.0f}")
    assert read(mine) <= read(theirs)


def test_where_nobody_else_wants_memory_nothing_is_lost(bundle):
    eater = Eater(MIB, first=6, stays=6, away=6)
    (plain, _), (elastic, full) = side_by_side(bundle, 600 * MIB, eater, {}, {"elastic": True}, seconds=16)
    assert elastic[-1]["elastic"]["shrunk"] == 0
    assert {line["slots"] for line in elastic} == {full["all"]}
    mine, theirs = same_requests(elastic, plain)
    assert [line["ids"] for line in mine] == [line["ids"] for line in theirs]
    print(f"MiB read: elastic {read(elastic) / MIB:.1f}, plain {read(plain) / MIB:.1f}")
    assert 0 < read(elastic) <= full["all_bytes"], "no expert is read twice"
