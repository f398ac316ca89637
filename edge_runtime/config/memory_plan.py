"""The memory plan: every byte the process will use, added up before anything is loaded. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edge_runtime.base.errors import BudgetError
from edge_runtime.base.sizes import align_up, format_size
from edge_runtime.bundle.record import BF16
from edge_runtime.config.limits import SystemLimits

_CONTEXT_STEP = 64


@dataclass(frozen=True)
class MemoryLine:
    """One addend of the plan."""

    name: str
    bytes: int
    note: str = ""


@dataclass(frozen=True)
class Ceiling:
    """The most the whole process may use, and what sets it."""

    bytes: int
    reason: str


@dataclass(frozen=True)
class MemoryNeeds:
    """What the process needs besides cached experts, and what an expert costs.

    Attributes:
        runtime_bytes: resident set of the process with its libraries loaded and nothing else, measured.
        trunk_bytes: dense weights, prepacked copies included.
        kv_bytes_per_token: keys and values of one token over all layers.
        context: N, tokens a KV cache is made for.
        parallel: KV caches, one a sequence.
        lendable_bytes: the part of scratch_bytes that only passes over several tokens of a prompt need.
        prefetch_bytes: what predicts experts; counted with the trunk.
        scratch_bytes: kernels' and graphs' activations, logits, read buffers.
        tokenizer_bytes: vocabulary and merges.
        headroom_bytes: kept free for what nobody counts: allocator slack, thread stacks, the caller.
        slot_bytes: bytes of an expert at each tier the bundle may serve.
        tier: the tier of this run, a key of slot_bytes.
        num_experts: E.
        num_expert_layers: sparse layers.
        top_k: K.
    """

    runtime_bytes: int
    trunk_bytes: int
    kv_bytes_per_token: int
    context: int
    scratch_bytes: int
    tokenizer_bytes: int
    headroom_bytes: int
    slot_bytes: Mapping[int, int]
    tier: int
    num_experts: int
    num_expert_layers: int
    top_k: int
    parallel: int = 1
    borrowable_bytes: int = 0
    prefetch_bytes: int = 0

    @property
    def all_experts(self) -> int:
        """Experts of the model: sparse layers times E."""
        return self.num_experts * self.num_expert_layers

    def fixed_lines(self) -> list[MemoryLine]:
        """Everything but cached experts."""
        per_token = format_size(self.kv_bytes_per_token)
        sequences = (f"{self.parallel} sequences x " if self.parallel > 1 else "") + f"{self.context} tokens x "
        return [
            MemoryLine("runtime libraries", self.runtime_bytes, "measured"),
            MemoryLine("trunk", self.trunk_bytes + self.prefetch_bytes),
            MemoryLine("KV cache", self.kv_bytes_per_token * self.context * self.parallel, f"{sequences}{per_token}"),
            MemoryLine("scratch", self.scratch_bytes, "activations, logits, reads"),
            MemoryLine("tokenizer", self.tokenizer_bytes),
            MemoryLine("headroom", self.headroom_bytes),
        ]

    def floor_bytes(self, *, context: int | None = None, tier: int | None = None) -> int:
        """Least the process can run in: everything fixed plus K slots, optionally with another context or tier."""
        fixed = sum(line.bytes for line in self.fixed_lines())
        if context is not None:
            fixed += self.kv_bytes_per_token * self.parallel * (context - self.context)
        return fixed + self.top_k * self.slot_bytes[tier or self.tier]


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
            "tier": self.tier,
            "context": self.context,
            "all_experts": self.all_experts,
            "cache_share": round(self.cache_share, 4),
            "working_set_slots": self.working_set,
            "warnings": list(self.warnings),
        }

    def table(self) -> list[str]:
        """Return the sum as lines of text."""
        rows = [(line.name, format_size(line.bytes), line.note) for line in self.lines]
        rows += [
            ("planned", format_size(self.planned_bytes), ""),
            ("budget", format_size(self.budget_bytes), self.ceiling.reason),
        ]
        text = [f"{name:<18}{size:>10}  {note}".rstrip() for name, size, note in rows]
        text.insert(len(self.lines), "-" * 28)
        more = f", {self.num_slots + self.borrowed_slots} while no prompt runs" if self.borrowed_slots else ""
        text.append(
            f"experts cached: {self.num_slots} of {self.all_experts} ({100 * self.cache_share:.1f} %){more}; "
            f"one token uses {self.working_set}"
        )
        return text + [f"warning: {warning}" for warning in self.warnings]


def memory_ceiling(
    limits: SystemLimits, *, requested: int | None = None, own_anonymous_bytes: int = 0, reserve_bytes: int = 0
) -> Ceiling:
    """Return the tightest of --memory, what the cgroup leaves and what the machine has available.

    Args:
        limits: what the system reports; what this process already uses is no longer in it.
        requested: --memory; None for auto.
        own_anonymous_bytes: anonymous memory of this process, added back: it is in the system's figures and in the
            plan.
        reserve_bytes: left to the rest of the machine out of what is available (auto only: a stated size is the
            user's word, cut only by what really exists).
    """
    reserve = reserve_bytes if requested is None else 0
    options = [Ceiling(max(0, limits.available_bytes + own_anonymous_bytes - reserve), "memory available")]
    if reserve:
        options[0] = Ceiling(options[0].bytes, f"memory available less {format_size(reserve)} for the system")
    if limits.cgroup_free_bytes is not None:
        free = limits.cgroup_free_bytes + own_anonymous_bytes
        most = free if limits.cgroup_limit_bytes is None else min(free, limits.cgroup_limit_bytes)
        options.append(Ceiling(most, f"cgroup limit of {limits.cgroup_path}"))
    if requested is not None:
        options.append(Ceiling(requested, "--memory"))
    return min(options, key=lambda option: option.bytes)


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
        BudgetError: fewer than K slots fit; has the whole sum and the nearest setting that fits.
    """
    slot = needs.slot_bytes[needs.tier]
    fixed = needs.fixed_lines()
    room = ceiling.bytes - sum(line.bytes for line in fixed)
    slots = min(needs.all_experts, room // slot)
    if slots < needs.top_k:
        raise BudgetError(_refusal(needs, ceiling))
    if expert_memory is not None and expert_memory // slot < needs.top_k:
        raise BudgetError(
            f"--expert-memory: {format_size(expert_memory)} holds {expert_memory // slot} experts of "
            f"{format_size(slot)}, below the {needs.top_k} one layer needs for a token. "
            f"Raise it to {format_size(needs.top_k * slot)}."
        )
    if expert_memory is not None:
        slots = min(slots, expert_memory // slot)
    arena = MemoryLine("expert arena", slots * slot, f"{slots} slots x {format_size(slot)}, tier {_tier(needs.tier)}")
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
        warnings=_warnings(slots, working_set, slot, needs.all_experts),
    )


def _warnings(slots: int, working_set: int, slot: int, all_experts: int) -> tuple[str, ...]:
    if slots >= min(working_set, all_experts):
        return ()
    return (
        f"the arena holds {slots} experts, but one token uses {working_set}: with LRU almost every expert is read "
        f"again for each token. {format_size((working_set - slots) * slot)} more, or a lower tier, helps.",
    )


def _refusal(needs: MemoryNeeds, ceiling: Ceiling) -> str:
    floor = needs.floor_bytes()
    parts = [f"{line.name} {format_size(line.bytes)}" for line in needs.fixed_lines() if line.bytes]
    parts.append(f"{needs.top_k} slots {format_size(needs.top_k * needs.slot_bytes[needs.tier])}")
    ways = [*_fewer_sequences(needs, ceiling), *_smaller_context(needs, ceiling), *_lower_tier(needs, ceiling)]
    if ceiling.reason == "--memory":
        # what the libraries take is measured, and differs by some 0.1 MiB from run to run
        ways.append(f"raise --memory to {format_size(align_up(floor + (1 << 20), 1 << 20))}")
    else:
        ways.append(f"free {format_size(floor - ceiling.bytes)} (the ceiling is the {ceiling.reason})")
    advice = ", or ".join(ways)
    return (
        f"memory: budget {format_size(ceiling.bytes)} is below the floor {format_size(floor)}\n"
        f"  ({', '.join(parts)}).\n  {advice[0].upper()}{advice[1:]}."
    )


def _smaller_context(needs: MemoryNeeds, ceiling: Ceiling) -> list[str]:
    over = needs.floor_bytes() - ceiling.bytes
    fits = needs.context - -(-over // max(needs.kv_bytes_per_token * needs.parallel, 1))
    fits -= fits % _CONTEXT_STEP
    if fits < _CONTEXT_STEP:
        return []
    floor = format_size(needs.floor_bytes(context=fits))
    return [f"lower --context from {needs.context} to {fits} (floor {floor})"]


def _fewer_sequences(needs: MemoryNeeds, ceiling: Ceiling) -> list[str]:
    each = needs.kv_bytes_per_token * needs.context
    fits = needs.parallel - -(-(needs.floor_bytes() - ceiling.bytes) // max(each, 1))
    if fits < 1:
        return []
    floor = format_size(needs.floor_bytes() - (needs.parallel - fits) * each)
    return [f"lower --parallel from {needs.parallel} to {fits} (floor {floor})"]


def _lower_tier(needs: MemoryNeeds, ceiling: Ceiling) -> list[str]:
    for tier in sorted(needs.slot_bytes, reverse=True):
        if tier < needs.tier and needs.floor_bytes(tier=tier) <= ceiling.bytes:
            return [f"use --tier {tier} (floor {format_size(needs.floor_bytes(tier=tier))})"]
    return []


def _tier(tier: int) -> str:
    return "bf16" if tier == BF16 else str(tier)
