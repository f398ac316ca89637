"""What this process may use now, counted alike however often it is asked, and plans of an engine that runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edge_runtime.backends.base import Backend
from edge_runtime.base.confined import held_bytes
from edge_runtime.config.limits import Ceiling, OwnMemory, memory_ceiling, read_limits
from edge_runtime.config.memory_needs import MemoryNeeds
from edge_runtime.config.memory_plan import MemoryPlan, plan_memory
from edge_runtime.config.options import RuntimeConfig
from edge_runtime.engine.active_policy import PolicyChoice
from edge_runtime.engine.parts import Parts
from edge_runtime.engine.sizing import base_tier
from edge_runtime.prefetch import predictor_bytes
from edge_runtime.telemetry.process import anonymous_bytes


def counted_helper_bytes(needs: MemoryNeeds | None = None) -> int:
    """Return the anonymous memory of helper processes, as far as a plan counts it as this process's own.

    What helpers hold beyond that is not planned for, so it is another's memory.

    Args:
        needs: that were planned with; None where all that helpers hold is about to be measured.
    """
    held = held_bytes()
    return held if needs is None else min(held, needs.helper_bytes)


def ceiling_here(config: RuntimeConfig, backend: Backend[Any], needs: MemoryNeeds | None = None) -> Ceiling:
    """Return what this process may use at most, on this machine, now. It does not change with what the engine holds.

    Helper processes count as its own as far as `needs` has them, see `counted_helper_bytes`.
    """
    own = OwnMemory(anonymous_bytes() + counted_helper_bytes(needs), backend.driver_bytes)
    return memory_ceiling(read_limits(own=own), requested=config.memory, reserve_bytes=config.os_reserve)


def plan_again(parts: Parts, config: RuntimeConfig, choice: PolicyChoice) -> MemoryPlan:
    """Plan the memory of a running engine for other options; changes nothing.

    Args:
        parts: the engine's; the length of its passes stays.
        config: says how much memory there is.
        choice: policy and predictor.

    Raises:
        BudgetError: it does not fit.
    """
    needs = _needs_with(parts, choice)
    return plan_memory(needs, ceiling_here(config, parts.backend, needs), expert_memory=config.expert_memory)


def plan_for(parts: Parts, ceiling: Ceiling) -> MemoryPlan:
    """Plan the memory of a running engine for another ceiling and the options as they are; changes nothing.

    Raises:
        BudgetError: it does not fit.
    """
    return plan_memory(_needs_with(parts, parts.active.choice), ceiling, expert_memory=parts.config.expert_memory)


def _needs_with(parts: Parts, choice: PolicyChoice) -> MemoryNeeds:
    prefetch_bytes = predictor_bytes(choice.prefetch, parts.spec, parts.backend.formulas)
    return replace(parts.needs, prefetch_bytes=prefetch_bytes, base_tier=base_tier(choice.policy))
