"""What to say where a model does not fit: the whole sum, and the nearest settings that do fit."""

from __future__ import annotations

from dataclasses import replace

from edge_runtime.base.sizes import align_up, format_size, format_size_up
from edge_runtime.config.limits import Ceiling
from edge_runtime.config.memory_needs import MemoryNeeds

_CONTEXT_STEP = 64


def explain_refusal(needs: MemoryNeeds, ceiling: Ceiling) -> str:
    """Return the message for needs whose floor is above the ceiling."""
    floor = needs.floor_bytes()
    parts = [f"{line.name} {format_size(line.bytes)}" for line in needs.fixed_lines() if line.bytes]
    parts.append(_experts(needs))
    ways = [*_fewer_sequences(needs, ceiling), *_smaller_context(needs, ceiling), *_lower_tier(needs, ceiling)]
    ways += _without_base(needs, ceiling)
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


def explain_expert_memory(needs: MemoryNeeds, expert_memory: int) -> str:
    """Return the message for an --expert-memory that holds fewer experts than there have to be."""
    slot, least = needs.slot_bytes[needs.tier], needs.least_slots()
    holds = f"--expert-memory: {format_size(expert_memory)} "
    if needs.base_tier:
        rest = f"leave out --base-resident ({format_size(needs.top_k * slot)} is the least then)"
        return f"{holds}does not hold {_experts(needs)}. Raise it to {format_size_up(least * slot)}, or {rest}."
    return (
        f"{holds}holds {expert_memory // slot} experts of {format_size(slot)}, below the {needs.top_k} one layer needs "
        f"for a token. Raise it to {format_size(least * slot)}."
    )


def _experts(needs: MemoryNeeds) -> str:
    """The least that experts take, in words."""
    slot = needs.slot_bytes[needs.tier]
    if not needs.base_tier:
        return f"{needs.top_k} slots {format_size(needs.top_k * slot)}"
    return (
        f"all {needs.all_experts} experts at {needs.base_tier} bits {format_size(needs.base_bytes)} and "
        f"{needs.top_k} of them at {needs.tier} bits, in all {format_size(needs.least_slots() * slot)}"
    )


def _without_base(needs: MemoryNeeds, ceiling: Ceiling) -> list[str]:
    if not needs.base_tier:
        return []
    floor = replace(needs, base_tier=0).floor_bytes()
    return [f"leave out --base-resident (floor {format_size(floor)})"] if floor <= ceiling.bytes else []


def _smaller_context(needs: MemoryNeeds, ceiling: Ceiling) -> list[str]:
    over = needs.floor_bytes() - ceiling.bytes
    fits = needs.context - -(-over // max(needs.kv_bytes_per_token * needs.parallel, 1))
    fits -= fits % _CONTEXT_STEP
    if fits < _CONTEXT_STEP:
        return []
    floor = format_size(needs.floor_bytes(context=fits))
    return [f"lower --context from {needs.context} to {fits} (floor {floor})"]


def _fewer_sequences(needs: MemoryNeeds, ceiling: Ceiling) -> list[str]:
    each = needs.kv_bytes_per_token * needs.context + needs.state_bytes
    fits = needs.parallel - -(-(needs.floor_bytes() - ceiling.bytes) // max(each, 1))
    if fits < 1:
        return []
    floor = format_size(needs.floor_bytes() - (needs.parallel - fits) * each)
    return [f"lower --parallel from {needs.parallel} to {fits} (floor {floor})"]


def _lower_tier(needs: MemoryNeeds, ceiling: Ceiling) -> list[str]:
    for tier in sorted(needs.slot_bytes, reverse=True):
        if needs.base_tier < tier < needs.tier and needs.floor_bytes(tier=tier) <= ceiling.bytes:
            return [f"use --tier {tier} (floor {format_size(needs.floor_bytes(tier=tier))})"]
    return []
