"""Changes the options of a running engine; a reload chooses policy, eviction and look-ahead as a start does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edge_runtime.base.sizes import parse_size
from edge_runtime.config.limits import Ceiling
from edge_runtime.config.memory_plan import MemoryPlan
from edge_runtime.config.options import RuntimeConfig
from edge_runtime.engine.assembly import make_prefetcher, make_residents, routers_for
from edge_runtime.engine.parts import Parts
from edge_runtime.engine.reload import Reload
from edge_runtime.engine.replanning import counted_helper_bytes, plan_again, plan_for
from edge_runtime.engine.sizing import base_tier

if TYPE_CHECKING:
    from edge_runtime.engine.elastic.follower import ElasticMemory
    from edge_runtime.engine.warm.preload import Preload


def reconfigure(parts: Parts, change: Reload) -> None:
    """Apply a change between two passes.

    A change of memory alone keeps experts and policy. Any other builds policy, eviction rule and predictor anew, cuts
    expert memory for the policy's lowest tier and empties it: from the next pass on all is as if the engine had been
    opened with these options. Only the counters go on.

    Raises:
        ConfigError, BundleError: the change is impossible; everything stays as it was.
        BudgetError: the system refused the memory; settings stay as they were, experts are read anew.
    """
    config = _changed(parts.config, change)
    if change.starts_over:
        _start_over(parts, config)
    else:
        _resize(parts, config)


def _start_over(parts: Parts, config: RuntimeConfig) -> None:
    active = parts.active
    choice = active.choose(config)
    has_same_memory = (config.memory, config.expert_memory) == (parts.config.memory, parts.config.expert_memory)
    has_same_needs = choice.prefetch == active.prefetch and base_tier(choice.policy) == parts.plan.base_tier
    plan = parts.plan if has_same_memory and has_same_needs else plan_again(parts, config, choice)
    routers = routers_for(parts.backend, parts.bundle, choice.prefetch, fits_all=_fits_all(plan))
    rule = active.make_rule(choice, plan.num_slots)
    manifest, space = parts.bundle.manifest, parts.cache.space
    parts.cache.start_over(make_residents(space, manifest, choice.policy, rule, config, plan.num_slots))
    active.switch(choice, rule)
    parts.trunk.set_routers(routers)
    parts.decoder.read_ahead.prefetcher = make_prefetcher(active, parts.backend, parts.trunk, parts.spec, parts.cache)
    parts.borrowed_scratch.start_over(plan.borrowed_slots)
    parts.config, parts.plan = config, plan
    _forget_measured(parts)


def _resize(parts: Parts, config: RuntimeConfig) -> None:
    _take_plan(parts, plan_again(parts, config, parts.active.choice))
    parts.config = config


def make_elastic(parts: Parts) -> ElasticMemory | None:
    """Return what follows memory, if the options ask for it."""
    config = parts.config
    if not config.elastic:
        return None
    from edge_runtime.config.pressure import PressureWatch
    from edge_runtime.engine.elastic.follower import ElasticMemory

    def apply(budget_bytes: int) -> MemoryPlan:
        _take_plan(parts, plan_for(parts, Ceiling(budget_bytes, "memory there is, followed")))
        return parts.plan

    watch = PressureWatch(
        reserve_bytes=config.os_reserve,
        driver_bytes=lambda: parts.backend.driver_bytes,
        helper_bytes=lambda: counted_helper_bytes(parts.needs),
    )
    # a pass that found everything in memory does not look again where it is
    return ElasticMemory(parts.plan, watch, lambda: parts.config.memory, apply, lambda: not parts.cache.fits_all)


def make_preload(parts: Parts) -> Preload | None:
    """Return what reads a workload's experts ahead of requests, if the options name one."""
    config, spec = parts.config, parts.spec
    if config.warm_start is None:
        return None
    from edge_runtime.engine.warm.preload import Preload
    from edge_runtime.engine.warm.usage import UsageFile

    file = UsageFile.of(parts.bundle.manifest.bundle_id, config.warm_start, (spec.num_layers, spec.num_experts))
    return Preload(parts.cache, file, top_k=spec.top_k, depth=config.io_threads)


def _take_plan(parts: Parts, plan: MemoryPlan) -> None:
    """Change the number of slots; experts that fit stay."""
    active, decoder = parts.active, parts.decoder
    changes_reach = _fits_all(plan) != parts.cache.fits_all
    reaches = _fits_all(plan) or not changes_reach
    routers = routers_for(parts.backend, parts.bundle, active.prefetch, fits_all=reaches)
    parts.cache.resize(plan.num_slots)
    parts.borrowed_scratch.start_over(plan.borrowed_slots)
    parts.plan = plan
    _forget_measured(parts)
    if changes_reach:  # nothing is read ahead where everything fits
        parts.trunk.set_routers(routers)
        decoder.read_ahead.prefetcher = make_prefetcher(active, parts.backend, parts.trunk, parts.spec, parts.cache)


def _forget_measured(parts: Parts) -> None:
    """Whether drafts pay depends on memory and policy."""
    if parts.speculation is not None:
        parts.speculation.forget()


def _fits_all(plan: MemoryPlan) -> bool:
    return plan.num_slots >= plan.all_experts


def _changed(config: RuntimeConfig, change: Reload) -> RuntimeConfig:
    """Return the options after a change; what it does not name stays."""
    memory, experts = config.memory, config.expert_memory
    if change.memory is not None:
        memory = None if change.memory == "auto" else parse_size(change.memory, "memory")
    if change.expert_memory is not None:
        experts = parse_size(change.expert_memory, "expert_memory")
    return replace(
        config,
        memory=memory,
        expert_memory=experts,
        policy=config.policy if change.policy is None else change.policy,
        eviction=config.eviction if change.eviction is None else change.eviction,
        prefetch=config.prefetch if change.prefetch is None else change.prefetch,
    )
