"""Who runs in the next pass: all running requests, or fewer where together they thrash the expert cache. Pure.

Requests decoded together share reads and overlap them with computing, but need the union of their experts. Where the
arena does not hold it, each evicts what the others need next, and fewer at a time are faster. Which is the case depends
on how much their texts have in common, on the policy and on the drive, so it is measured: seconds a token at the width
in use, now and then a trial of the next narrower or wider one, and the cheaper of the two stays.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from statistics import median
from time import monotonic
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T", bound=Hashable)

SLICE_S = 30.0
"""Where fewer run at a time than could, each runs this long before the next: a change costs reading its experts."""
_SAMPLES = 12
_REFILL = 1.5  # lookups, in arenas, after which the experts of a former width have left the cache
_MAX_REFILL_PASSES = 96
# a trial is repeated after this many times its own length, after twice that each time it fails again: a burst of other
# work spoils some of the first, and later ones cost little
_HOLD = 4
_LONGEST_HOLD = 256
_MISSES = 0.02  # share of misses below which no other width is tried
_NARROWER_GAIN = 0.08  # fewer at once must be this much cheaper: together, nobody waits


class PassCost(NamedTuple):
    """What a pass took.

    Attributes:
        width: sequences in it.
        seconds: wall time.
        lookups: distinct experts asked for, over all layers.
        hits: of those, experts that were resident.
    """

    width: int
    seconds: float
    lookups: int
    hits: int


class WidthControl:
    """Finds how many sequences decode fastest together.

    Args:
        most: sequences that can run at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.forget()

    def forget(self) -> None:
        """Start over with all at once: the arena or the policy has changed."""
        self._best = self._most
        self._trial: int | None = None
        self._rival = (0, 0.0)  # width a trial is measured against, and its seconds a token
        self._downward = True
        self._hold, self._patience = 0, _HOLD
        self._restart(0)

    def width(self, running: int) -> int:
        """Return how many of `running` sequences to decode in the next pass."""
        return min(self._trial or self._best, running)

    def note(self, cost: PassCost, *, slots: int, running: int) -> None:
        """Take note of a pass that ran one token of each of its sequences.

        Args:
            cost: of the pass.
            slots: experts the arena holds.
            running: sequences that could have been in it.
        """
        if running == 1:  # nothing to choose
            return
        if cost.width != self._measured:
            self._restart(cost.width)
        self._passes += 1
        self._hold -= 1
        self._looked_up += cost.lookups
        if self._looked_up < _REFILL * slots and self._passes < _MAX_REFILL_PASSES:
            return
        self._samples.append(cost)
        if len(self._samples) == _SAMPLES:
            self._decide(cost.width, running)
            self._samples.clear()

    def _restart(self, width: int) -> None:
        """Measure a width whose experts are not in the arena yet."""
        self._measured, self._passes, self._looked_up = width, 0, 0
        self._samples: list[PassCost] = []

    def _decide(self, width: int, running: int) -> None:
        seconds = median(sample.seconds for sample in self._samples) / width
        lookups = sum(sample.lookups for sample in self._samples)
        misses = lookups - sum(sample.hits for sample in self._samples)
        if self._trial is not None:
            self._end_trial(width, seconds, running)
            return
        may_pay = misses > _MISSES * lookups or width < running
        if self._hold <= 0 and may_pay and not self._start_trial(width, seconds, running):
            self._downward = not self._downward
            self._start_trial(width, seconds, running)

    def _start_trial(self, width: int, seconds: float, running: int) -> bool:
        """Try the next width in the present direction; return whether there is one."""
        trial = (width + 1) // 2 if self._downward else min(2 * width, running)
        if trial == width:
            return False
        self._trial, self._rival = trial, (width, seconds)
        return True

    def _end_trial(self, width: int, seconds: float, running: int) -> None:
        trial, (rival, rival_seconds) = self._trial, self._rival
        self._trial = None
        if width != trial:  # others have ended meanwhile: nothing was learnt
            return
        if seconds < (1 - _NARROWER_GAIN * (width < rival)) * rival_seconds:
            self._best = self._most if width == running else width
            self._patience = _HOLD
            if self._start_trial(width, seconds, running):  # further the same way
                return
        self._downward = not self._downward
        self._hold = self._patience * self._passes
        self._patience = min(2 * self._patience, _LONGEST_HOLD)


class BatchWidth(Generic[T]):
    """Chooses who runs in the next pass. Those left out keep their place and run later.

    Args:
        most: sequences that can run at once.
        clock: seconds, monotonic.
    """

    def __init__(self, most: int, clock: Callable[[], float] = monotonic) -> None:
        self._control, self._clock = WidthControl(most), clock
        self._line: list[T] = []
        self._since: dict[T, float] = {}
        self.width = 0
        """Sequences in the last pass."""

    def forget(self) -> None:
        """What was measured holds no longer: the arena or the policy has changed."""
        self._control.forget()

    def choose(self, running: Sequence[T]) -> list[T]:
        """Return those that run in the next pass, in order.

        Args:
            running: all of them, the oldest first.
        """
        if len(running) == 1 and self._line == [*running]:  # as in the pass before: nothing to choose
            return [*running]
        width, now = self._control.width(len(running)), self._clock()
        line = [one for one in self._line if one in running] + [one for one in running if one not in self._line]
        if width < len(line):
            over = [one for one in line[:width] if now - self._since.get(one, now) > SLICE_S]
            line = [one for one in line if one not in over] + over
        self._line, chosen = line, line[:width]
        self._since = {one: self._since.get(one, now) for one in chosen}
        self.width = width
        return chosen

    def note(self, cost: PassCost, *, slots: int, has_prompt: bool) -> None:
        """Take note of the pass; one with a chunk of a prompt tells nothing about decoding.

        Args:
            cost: of the pass.
            slots: experts the arena holds.
            has_prompt: it ran a chunk of a prompt.
        """
        if not has_prompt:
            self._control.note(cost, slots=slots, running=len(self._line))
