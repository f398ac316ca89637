"""What to say where a model does not fit: the whole sum, and the nearest settings that do fit."""

from __future__ import annotations

from edge_runtime.base.sizes import align_up, format_size
from edge_runtime.config.limits import Ceiling
from edge_runtime.config.memory_needs import MemoryNeeds

_CONTEXT_STEP = 64


def explain_refusal(needs: MemoryNeeds, ceiling: Ceiling) -> str:
    """Return the message for needs whose floor is above the ceiling."""
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
    each = needs.kv_bytes_per_token * needs.context + needs.state_bytes
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
