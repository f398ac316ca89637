"""How many requests run together: fewer where that is cheaper, more again when it pays; all of them get to run."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from edge_runtime.engine.batch_width import SLICE_S, BatchWidth, PassCost, WidthControl

SLOTS = 100


def run(
    control: WidthControl, cost: dict[int, float], passes: int, *, running: int = 4, missed: float = 0.3, seed: int = 1
) -> tuple[float, Counter[int]]:
    """Play passes whose seconds a token at each width are given, 20 % of noise; return tokens a second and widths."""
    rng = random.Random(seed)
    seconds, widths = 0.0, Counter[int]()
    for _ in range(passes):
        width = control.width(running)
        took = cost[width] * width * rng.uniform(0.8, 1.2)
        control.note(
            PassCost(width, took, 40 * width, 40 * width - int(missed * 40 * width)), slots=SLOTS, running=running
        )
        seconds += took
        widths[width] += 1
    return sum(width * n for width, n in widths.items()) / seconds, widths


THRASHES = {1: 1.0, 2: 1.4, 3: 1.7, 4: 1.9}
SHARES = {1: 1.0, 2: 0.8, 3: 0.7, 4: 0.65}
BETWEEN = {1: 1.0, 2: 0.8, 3: 1.0, 4: 1.3}


@pytest.mark.parametrize(("cost", "best"), [(THRASHES, 1), (SHARES, 4), (BETWEEN, 2)])
@pytest.mark.parametrize("seed", range(5))
def test_it_ends_at_the_cheapest_width(cost: dict[int, float], best: int, seed: int) -> None:
    control = WidthControl(4)
    run(control, cost, 200, seed=seed)
    rate, widths = run(control, cost, 3000, seed=seed)
    assert widths.most_common(1)[0][0] == best
    assert rate * cost[best] > 0.97  # what trials cost


def test_without_misses_nothing_is_tried() -> None:
    _, widths = run(WidthControl(4), THRASHES, 2000, missed=0.0)
    assert set(widths) == {4}


def test_it_follows_when_the_texts_change() -> None:
    control = WidthControl(4)
    run(control, THRASHES, 1000)
    assert run(control, SHARES, 6000)[1].most_common(1)[0][0] == 4
    assert run(control, THRASHES, 6000)[1].most_common(1)[0][0] == 1


def test_after_a_reload_it_starts_with_all() -> None:
    control = WidthControl(4)
    run(control, THRASHES, 500)
    assert control.width(4) == 1
    control.forget()
    assert control.width(4) == 4


def test_a_trial_that_others_cut_short_decides_nothing() -> None:
    control = WidthControl(4)
    while control.width(4) == 4:
        control.note(PassCost(4, 4.0, 160, 80), slots=SLOTS, running=4)
    assert control.width(4) == 2
    for _ in range(200):  # of three, two end
        control.note(PassCost(1, 0.1, 40, 20), slots=SLOTS, running=1)
    assert control.width(4) == 2
    for _ in range(50):  # by passes of another width nothing is learnt about two
        control.note(PassCost(3, 0.1, 40, 20), slots=SLOTS, running=3)
    assert control.width(4) == 4


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def narrow(clock: Clock) -> BatchWidth[str]:
    """Return a `BatchWidth` that has found one at a time to be cheapest."""
    batch: BatchWidth[str] = BatchWidth(3, clock)
    for _ in range(200):
        width = len(batch.choose(["x", "y", "z"]))
        batch.note(PassCost(width, THRASHES[width] * width, 40 * width, 28 * width), slots=SLOTS, has_prompt=False)
    assert batch.width == 1
    return batch


def test_all_run_while_that_is_cheapest() -> None:
    batch: BatchWidth[str] = BatchWidth(3)
    assert batch.choose(["a", "b"]) == ["a", "b"]
    assert batch.choose(["a", "b", "c"]) == ["a", "b", "c"]
    assert batch.choose(["b", "c"]) == ["b", "c"]
    assert batch.choose([]) == []


def test_one_request_runs_until_it_ends_or_its_time_is_over() -> None:
    clock = Clock()
    batch = narrow(clock)
    seen = []
    for step in range(8):
        clock.now = step * SLICE_S / 2
        seen += batch.choose(["a", "b", "c"])
    assert seen == ["a", "a", "a", "b", "b", "b", "c", "c"]
    assert batch.choose(["a", "b"]) == ["a"]
    assert batch.choose(["b", "d"]) == ["b"]


def test_passes_with_a_prompt_tell_nothing() -> None:
    batch: BatchWidth[str] = BatchWidth(2)
    for _ in range(500):
        width = len(batch.choose(["a", "b"]))
        batch.note(PassCost(width, 1.0, 80, 40), slots=SLOTS, has_prompt=True)
    assert batch.width == 2
