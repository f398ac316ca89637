"""UnitLedger: memory of experts in units of two sizes, cores and planes, under one byte budget. Bookkeeping only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from edge_runtime.format.record import BF16, RecordLayout


@dataclass(frozen=True)
class UnitSizes:
    """How an expert's record prefix is cut into units of memory.

    A *core* holds the segments of the lowest tier in use, in one piece; a *plane* holds one more segment. A run that
    uses one tier has cores only.

    Attributes:
        core_tier: tier a core alone serves.
        full_tier: deepest tier of this run.
        core_bytes: bytes of a core.
        plane_bytes: bytes of a plane; 0 if core_tier is full_tier.
    """

    core_tier: int
    full_tier: int
    core_bytes: int
    plane_bytes: int = 0

    @staticmethod
    def of(layout: RecordLayout, tier: int, min_tier: int) -> UnitSizes:
        """Cut records for a run that serves tiers from `min_tier` to `tier`."""
        if min_tier == tier:
            return UnitSizes(tier, tier, layout.tier_bytes(tier))
        return UnitSizes(min_tier, tier, layout.tier_bytes(min_tier), layout.segment_bytes[-1])

    @cached_property
    def max_planes(self) -> int:
        """Planes an expert at the full tier has."""
        return self.planes(self.full_tier)

    @cached_property
    def core_segments(self) -> int:
        """Segments of a core."""
        return 1 if self.core_tier == BF16 else self.core_tier // 2

    @property
    def full_bytes(self) -> int:
        """Bytes of an expert at the full tier."""
        return self.core_bytes + self.max_planes * self.plane_bytes

    def planes(self, tier: int) -> int:
        """Planes an expert has at `tier`; tiers below the core's have none."""
        return max(tier - self.core_tier, 0) // 2 if self.core_tier != self.full_tier else 0


_SLACK_SHARE = 12
_LARGE_BYTES = 256 << 10
_MANY = 16


class Discard(NamedTuple):
    """Memory of a free unit that must go back to the system, because the other size needs the bytes."""

    is_plane: bool
    unit: int


class _Units:
    """Free units of one size: warm ones still hold memory of the system, cold ones do not."""

    def __init__(self, count: int, size: int) -> None:
        self.size, self.count = size, 0
        self.warm: list[int] = []
        self.cold: list[int] = []
        self.grow(count)

    @property
    def touched_bytes(self) -> int:
        return (self.count - len(self.cold)) * self.size

    @property
    def num_used(self) -> int:
        return self.count - len(self.cold) - len(self.warm)

    def take(self) -> int:
        return self.warm.pop() if self.warm else self.cold.pop()

    def cool(self) -> int:
        self.cold.append(self.warm.pop())
        return self.cold[-1]

    def grow(self, count: int) -> None:
        self.cold = [*range(count - 1, self.count - 1, -1), *self.cold]
        self.count = count

    def shrink(self, count: int, used: list[int]) -> list[tuple[int, int]]:
        """Keep units below `count`; return (source, target) moves for used ones past it."""
        targets = sorted((u for u in (*self.warm, *self.cold) if u < count), reverse=True)
        moves = [(source, targets.pop()) for source in sorted(used) if source >= count]
        taken = {target for _, target in moves}
        self.warm = [u for u in self.warm if u < count and u not in taken]
        self.cold = [u for u in self.cold if u < count and u not in taken]
        self.count = count
        return moves

    def reconcile(self, used: list[int]) -> None:
        """Make free and used units disjoint and complete; nothing changes if they are."""
        marks = np.bincount(np.array([*used, *self.warm, *self.cold], np.intp), minlength=self.count)
        if (marks == 1).all():
            return
        taken = set(used)
        cold = [unit for unit in dict.fromkeys(self.cold) if unit not in taken]
        untouched = set(cold)
        self.cold = cold
        self.warm = [unit for unit in range(self.count) if unit not in taken and unit not in untouched]


class UnitLedger:
    """Which units are free, and how much memory the used and the touched ones take.

    Used bytes never exceed the budget, and neither do touched bytes: a unit that was written keeps its memory when it
    is freed, for the next expert of its size; if the other size needs it, it is listed in `discards`.

    Args:
        sizes: of the units.
        budget_bytes: for all units together.
        max_experts: experts there are; more cores are never needed.
    """

    def __init__(self, sizes: UnitSizes, budget_bytes: int, max_experts: int) -> None:
        self.sizes, self.max_experts = sizes, max_experts
        self.discards: list[Discard] = []
        self.start_over(budget_bytes)

    @property
    def free_bytes(self) -> int:
        """What may be used, less used units."""
        return self.budget_bytes - self._slack_bytes - self.used_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes of used units."""
        return self._cores.num_used * self.sizes.core_bytes + self._planes.num_used * self.sizes.plane_bytes

    @property
    def touched_bytes(self) -> int:
        """Bytes of units that hold memory of the system, used or not."""
        return self._cores.touched_bytes + self._planes.touched_bytes

    @property
    def num_cores(self) -> int:
        """Cores there may be; their numbers are below it."""
        return self._cores.count

    def core_capacity(self, budget_bytes: int) -> int:
        """Most cores a budget holds."""
        return min(budget_bytes // self.sizes.core_bytes, self.max_experts)

    def plane_capacity(self, budget_bytes: int) -> int:
        """Most planes a budget holds beside the cores they belong to."""
        if not self.sizes.max_planes:
            return 0
        return min(budget_bytes // self.sizes.plane_bytes, self.max_experts * self.sizes.max_planes)

    def take_core(self) -> int:
        """Use a core; there must be room for its bytes."""
        return self._take(self._cores, self._planes, other_is_plane=True)

    def take_plane(self) -> int:
        """Use a plane; there must be room for its bytes."""
        return self._take(self._planes, self._cores, other_is_plane=False)

    def free_core(self, unit: int) -> None:
        """Stop using a core."""
        self._cores.warm.append(unit)

    def free_planes(self, units: list[int]) -> None:
        """Stop using planes."""
        self._planes.warm.extend(units)

    def resize(self, budget_bytes: int, cores: list[int], planes: list[int]) -> tuple[list[tuple[int, int]], ...]:
        """Change the budget, which must hold what is used.

        Args:
            budget_bytes: the new one.
            cores: cores in use.
            planes: planes in use.

        Returns:
            Moves (source, target) of cores, then of planes, that the caller makes before units past the new counts
            disappear.
        """
        moves: list[list[tuple[int, int]]] = []
        self.budget_bytes, self._slack_bytes = budget_bytes, self._slack(budget_bytes)
        for units, count, used in (
            (self._cores, self.core_capacity(budget_bytes), cores),
            (self._planes, self.plane_capacity(budget_bytes), planes),
        ):
            if count >= units.count:
                units.grow(count)
                moves.append([])
            else:
                moves.append(units.shrink(count, used))
        self._cool_to_budget()
        return tuple(moves)

    def start_over(self, budget_bytes: int) -> None:
        """Forget all units: none is used, and none holds memory."""
        self.budget_bytes, self._slack_bytes = budget_bytes, self._slack(budget_bytes)
        self._cores = _Units(self.core_capacity(budget_bytes), self.sizes.core_bytes)
        self._planes = _Units(self.plane_capacity(budget_bytes), self.sizes.plane_bytes)
        self.discards.clear()

    def _slack(self, budget_bytes: int) -> int:
        """Bytes kept for free units that hold memory already, where there are two sizes of large units.

        How many of each are used goes up and down. Without slack nearly every read takes its memory from units of the
        other size, and the system zeroes each page of it: half the drive's rate at 1 MiB a unit.
        """
        full = self.sizes.full_bytes
        is_mixed = self.sizes.max_planes > 0 and full >= _LARGE_BYTES
        if not is_mixed or budget_bytes >= self.max_experts * full or budget_bytes < _MANY * full:
            return 0
        return budget_bytes // _SLACK_SHARE

    def reconcile(self, cores: list[int], planes: list[int]) -> None:
        """Let exactly these units be used, whatever an interrupted call left; a lost one counts as holding memory."""
        self._cores.reconcile(cores)
        self._planes.reconcile(planes)

    def drain_discards(self) -> list[Discard]:
        """Return the units whose memory must go back now, and forget them."""
        drained, self.discards = self.discards, []
        return drained

    def _take(self, units: _Units, other: _Units, *, other_is_plane: bool) -> int:
        if not units.warm:
            over = self.touched_bytes + units.size - self.budget_bytes
            while over > 0 and other.warm:
                # noted first: a discard too many does no harm, a forgotten one is memory over the budget
                self.discards.append(Discard(other_is_plane, other.warm[-1]))
                other.cool()
                over -= other.size
        return units.take()

    def _cool_to_budget(self) -> None:
        for units, is_plane in ((self._planes, True), (self._cores, False)):
            while self.touched_bytes > self.budget_bytes and units.warm:
                self.discards.append(Discard(is_plane, units.cool()))
