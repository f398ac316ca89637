"""Which step of a bring-up is next, and how much of the time it may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge_runtime.lab.bringup.process import CUT, GRACE_S, STUCK
from edge_runtime.lab.bringup.steps import Step

INTERRUPTED, NOT_REACHED, NOT_FINISHED = "interrupted", "not reached", "not finished"
TOOK_TOO_MUCH = (CUT, STUCK, INTERRUPTED)
_MOST_KEPT = 0.1


def in_order(steps: Sequence[Step], times: Mapping[str, int]) -> list[Step]:
    """Return the steps in order, but the oftener runs before had to end one, the further behind.

    Args:
        steps: all of them.
        times: that runs before had to end them, or ended in them, by name.
    """
    return sorted(steps, key=lambda step: times_ended(step, times))


def times_ended(step: Step, times: Mapping[str, int]) -> int:
    """Return how often runs before had to end a step, or what it needs."""
    return max(times.get(step.name, 0), times.get(step.needs, 0))


def share_s(left_s: float, expected_s: float, *, others: bool) -> float:
    """Return how many seconds a step may take while it is at work.

    Half of what is left, so that one step never takes it all, or what it is planned with if that is more; all of it
    if no other waits.

    Args:
        left_s: of the whole bring-up.
        expected_s: for this step.
        others: others wait behind it that no run before had to end.
    """
    return min(left_s, max(expected_s, left_s / 2)) if others else left_s


def kept_for_the_end(whole_s: float) -> float:
    """Return the seconds of a bring-up that are kept for ending a step that has to be ended."""
    return min(GRACE_S, _MOST_KEPT * whole_s)
