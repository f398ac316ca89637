"""UnitLedger: memory of experts in units of two sizes, cores and planes, under one byte budget. Bookkeeping only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from edge_runtime.base.base_slots import base_slots
from edge_runtime.base.errors import BudgetError
from edge_runtime.base.sizes import format_size, format_size_up
from edge_runtime.bundle.record import BF16, RecordLayout
from edge_runtime.experts.native import Ledger


@dataclass(frozen=True)
class UnitSizes:
    """How an expert's record prefix is cut into units of memory.

    A *core* holds the segments of the lowest tier in use, in one block; a *plane* holds one more segment. A run that
    uses one tier has cores only. Where memory does not give back pages, it cannot move between the two sizes: cores are
    *whole* then, with room for the planes too, which take no memory of their own.

    Attributes:
        core_tier: tier a core alone serves.
        full_tier: deepest tier of this run.
        core_bytes: bytes of a core.
        plane_bytes: bytes of a plane; 0 if core_tier is full_tier or cores are whole.
        core_offsets: where each segment of a core starts in it; of whole cores, each segment of the full tier.
    """

    core_tier: int
    full_tier: int
    core_bytes: int
    plane_bytes: int = 0
    core_offsets: tuple[int, ...] = (0,)

    @staticmethod
    def of(layout: RecordLayout, tier: int, min_tier: int, *, whole: bool = False) -> UnitSizes:
        """Cut records for a run that serves tiers from `min_tier` to `tier`, into whole cores or not."""
        if whole:
            return UnitSizes(min_tier, tier, layout.tier_bytes(tier), 0, layout.segment_offsets(tier))
        plane_bytes = layout.segment_bytes[-1] if min_tier != tier else 0
        return UnitSizes(min_tier, tier, layout.tier_bytes(min_tier), plane_bytes, layout.segment_offsets(min_tier))

    @cached_property
    def max_planes(self) -> int:
        """Planes an expert at the full tier has."""
        return self.planes(self.full_tier)

    @cached_property
    def core_segments(self) -> int:
        """Segments of a core."""
        return 1 if self.core_tier == BF16 else self.core_tier // 2

    @property
    def is_whole(self) -> bool:
        """Whether a core has room for its planes."""
        return self.max_planes > 0 and self.plane_bytes == 0

    @property
    def full_bytes(self) -> int:
        """Bytes of an expert at the full tier."""
        return self.core_bytes + self.max_planes * self.plane_bytes

    def planes(self, tier: int) -> int:
        """Planes an expert has at `tier`; tiers below the core's have none."""
        return max(tier - self.core_tier, 0) // 2 if self.core_tier != self.full_tier else 0

    def lacking_part(self, resident_planes: int, planes: int) -> tuple[int, int]:
        """Where in a whole core a read starts and ends.

        Args:
            resident_planes: planes of its expert that are there; -1 if nothing is.
            planes: planes it will have then.
        """
        ends = [*self.core_offsets[1:], self.core_bytes]
        start = 0 if resident_planes < 0 else ends[self.core_segments + resident_planes - 1]
        return start, ends[self.core_segments + planes - 1]


class UnitLedger(Ledger):
    """Which units are free, and how much memory the used and the touched ones take.

    Used bytes never exceed the budget, and neither do touched bytes: a unit that was written keeps its memory when it
    is freed, for the next expert of its size; if the other size needs it, `discards` lists it as (is_plane, unit).

    Args:
        sizes: of the units.
        budget_bytes: for all units together.
        max_experts: experts there are; more cores are never needed.
    """

    def __init__(self, sizes: UnitSizes, budget_bytes: int, max_experts: int) -> None:
        super().__init__(
            sizes.core_tier, sizes.full_tier, sizes.core_bytes, sizes.plane_bytes, budget_bytes, max_experts
        )
        self.sizes = sizes
        self.keeps_cores = False
        """Whether every expert has a core for good; set by `Residents`."""

    def hold_ahead_whole(self) -> tuple[list[int], list[int]]:
        """Count what nobody holds of the budget as held, before it is used, by experts of the full tier.

        Where every expert keeps its core, cores come first. Returns the cores and planes held so, also from before, in
        the order they will be used: whoever asks takes their memory from the system. If experts of lower tiers are
        read in their stead, some of it is listed in `discards`. Which unit is used for what does not change.
        """
        rest = self.budget_bytes - self.touched_bytes
        return self.hold_ahead(self.max_experts if self.keeps_cores else rest // self.sizes.full_bytes)


def require_base(sizes: UnitSizes, num_slots: int, *, all_experts: int, top_k: int) -> None:
    """Refuse a budget of so many experts of the full tier that does not hold all of them at the lowest.

    Raises:
        BudgetError: says how much would.
    """
    least = base_slots(sizes.full_bytes, sizes.core_bytes, all_experts=all_experts, top_k=top_k)
    if num_slots >= least:
        return
    why = (
        "this backend's memory does not move between tiers, so each takes the size of the full one"
        if sizes.is_whole
        else f"each takes {format_size(sizes.core_bytes)}"
    )
    raise BudgetError(
        f"--base-resident: {format_size(num_slots * sizes.full_bytes)} of expert memory do not hold all {all_experts} "
        f"experts at {sizes.core_tier} bits ({why}) and {top_k} of them at {sizes.full_tier}. "
        f"Raise it to {format_size_up(least * sizes.full_bytes)}, or leave --base-resident out."
    )
