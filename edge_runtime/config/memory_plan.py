"""The memory plan: every byte the process will use, added up before anything is loaded. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from edge_runtime.base.errors import BudgetError
from edge_runtime.base.sizes import format_size
from edge_runtime.bundle.record import BF16
from edge_runtime.config.limits import Ceiling
from edge_runtime.config.memory_advice import explain_expert_memory, explain_refusal
from edge_runtime.config.memory_needs import MemoryLine, MemoryNeeds


@dataclass(frozen=True)
class MemoryPlan:
    """A plan that fits.

    Attributes:
        ceiling: the budget and what sets it.
        lines: the addends, the expert arena last.
        num_slots: S, experts that can be resident.
        slot_bytes: size of one slot.
        tier: tier of the slots.
        all_experts: experts of the model.
        working_set: experts one token uses: sparse layers times K.
        context: tokens of KV cache.
        floor_bytes: least budget this plan's tier and context can run in.
        borrowed_slots: experts that can be resident beyond S while no prompt runs.
        base_tier: the tier every expert stays in memory at; 0: none does.
        base_bytes: what that takes of the arena.
        warnings: what the user should know.
    """

    ceiling: Ceiling
    lines: tuple[MemoryLine, ...]
    num_slots: int
    slot_bytes: int
    tier: int
    all_experts: int
    working_set: int
    context: int
    floor_bytes: int
    borrowed_slots: int = 0
    base_tier: int = 0
    base_bytes: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def budget_bytes(self) -> int:
        """The ceiling."""
        return self.ceiling.bytes

    @property
    def planned_bytes(self) -> int:
        """Sum of all lines, at most the ceiling."""
        return sum(line.bytes for line in self.lines)

    @property
    def arena_bytes(self) -> int:
        """Bytes of the expert arena."""
        return self.num_slots * self.slot_bytes

    @property
    def cache_share(self) -> float:
        """Share of all experts that can be resident, 0 to 1."""
        return self.num_slots / self.all_experts

    @property
    def planes_share(self) -> float:
        """Share of the planes above the base that can be resident, 0 to 1; of whole experts where there is no base."""
        beyond = self.all_experts * self.slot_bytes - self.base_bytes
        return (self.arena_bytes - self.base_bytes) / beyond

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "budget_bytes": self.budget_bytes,
            "budget_reason": self.ceiling.reason,
            "planned_bytes": self.planned_bytes,
            "floor_bytes": self.floor_bytes,
            "lines": [asdict(line) for line in self.lines],
            "num_slots": self.num_slots,
            "lent_slots": self.borrowed_slots,
            "slot_bytes": self.slot_bytes,
            "arena_bytes": self.arena_bytes,
            "base_tier": self.base_tier,
            "base_bytes": self.base_bytes,
            "tier": self.tier,
            "context": self.context,
            "all_experts": self.all_experts,
            "cache_share": round(self.cache_share, 4),
            "working_set_slots": self.working_set,
            "warnings": list(self.warnings),
        }

    def table(self) -> list[str]:
        """Return the sum as lines of text."""
        rows = [(line.name, format_size(line.bytes), line.note) for line in self.lines if line.bytes]
        count = len(rows)
        rows += [
            ("planned", format_size(self.planned_bytes), ""),
            ("budget", format_size(self.budget_bytes), self.ceiling.reason),
        ]
        text = [f"{name:<18}{size:>10}  {note}".rstrip() for name, size, note in rows]
        text.insert(count, "-" * 28)
        more = f", {self.num_slots + self.borrowed_slots} while no prompt runs" if self.borrowed_slots else ""
        if self.base_tier:
            text.append(
                f"experts in memory: all {self.all_experts} at {self.base_tier} bits, and room for "
                f"{100 * self.planes_share:.1f} % of the planes up to {self.tier}; one token uses {self.working_set}"
            )
            return text
        text.append(
            f"experts cached: {self.num_slots} of {self.all_experts} ({100 * self.cache_share:.1f} %){more}; "
            f"one token uses {self.working_set}"
        )
        return text + [f"warning: {warning}" for warning in self.warnings]


PREFILL_CHUNKS = (512, 256, 128, 64, 32, 16)
_SCRATCH_SHARE = 4
_RESIDENT_CHUNK = 128


def choose_prefill_chunk(
    room_bytes: int, scratch_bytes: Callable[[int], int], *, longest: int, experts_bytes: int
) -> int:
    """Return how many tokens of a prompt to run in one pass.

    Each expert is read at most once a pass, so that longer passes read less; but their scratch comes out of the memory
    of experts while they run. The longest pass whose scratch takes at most a quarter of what the two share is taken;
    where all experts stay in memory, and longer passes save nothing, at most 128 tokens.

    Args:
        room_bytes: the ceiling less everything but scratch and experts.
        scratch_bytes: scratch of a pass of that many tokens.
        longest: the context, as no pass is longer.
        experts_bytes: all experts of the model.
    """
    if experts_bytes + scratch_bytes(_RESIDENT_CHUNK) <= room_bytes:
        longest = min(longest, _RESIDENT_CHUNK)
    choices = sorted({min(chunk, longest) for chunk in PREFILL_CHUNKS}, reverse=True)
    fitting = (chunk for chunk in choices if _SCRATCH_SHARE * scratch_bytes(chunk) <= room_bytes)
    return next(fitting, choices[-1])


def plan_memory(needs: MemoryNeeds, ceiling: Ceiling, *, expert_memory: int | None = None) -> MemoryPlan:
    """Fit as many expert slots as the ceiling allows.

    Args:
        needs: everything else.
        ceiling: for the whole process.
        expert_memory: --expert-memory, a cap for the arena within the ceiling.

    Raises:
        BudgetError: fewer than K slots fit, or the base of every expert does not; has the whole sum and the nearest
            setting that fits.
    """
    slot = needs.slot_bytes[needs.tier]
    fixed = needs.fixed_lines()
    room = ceiling.bytes - sum(line.bytes for line in fixed)
    slots = min(needs.all_experts, room // slot)
    if slots < needs.least_slots():
        raise BudgetError(explain_refusal(needs, ceiling))
    if expert_memory is not None and expert_memory // slot < needs.least_slots():
        raise BudgetError(explain_expert_memory(needs, expert_memory))
    if expert_memory is not None:
        slots = min(slots, expert_memory // slot)
    arena = MemoryLine("expert arena", slots * slot, _arena_note(needs, slots))
    # a stated --expert-memory is the most experts may ever take
    borrowed = min(needs.borrowable_bytes // slot, needs.all_experts - slots) if expert_memory is None else 0
    working_set = needs.num_expert_layers * needs.top_k
    return MemoryPlan(
        ceiling=ceiling,
        lines=(*fixed, arena),
        num_slots=slots,
        slot_bytes=slot,
        tier=needs.tier,
        all_experts=needs.all_experts,
        working_set=working_set,
        context=needs.context,
        floor_bytes=needs.floor_bytes(),
        borrowed_slots=borrowed,
        base_tier=needs.base_tier,
        base_bytes=needs.base_bytes,
        warnings=() if needs.base_tier else _warnings(slots, working_set, slot, needs.all_experts),
    )


def _arena_note(needs: MemoryNeeds, slots: int) -> str:
    slot = needs.slot_bytes[needs.tier]
    if not needs.base_tier:
        return f"{slots} slots x {format_size(slot)}, tier {_tier(needs.tier)}"
    planes = format_size(slots * slot - needs.base_bytes)
    return f"every expert at {needs.base_tier} bits {format_size(needs.base_bytes)}, deeper planes {planes}"


def _warnings(slots: int, working_set: int, slot: int, all_experts: int) -> tuple[str, ...]:
    if slots >= min(working_set, all_experts):
        return ()
    return (
        f"the arena holds {slots} experts, but one token uses {working_set}: with LRU almost every expert is read "
        f"again for each token. {format_size((working_set - slots) * slot)} more, or a lower tier, helps.",
    )


def _tier(tier: int) -> str:
    return "bf16" if tier == BF16 else str(tier)
