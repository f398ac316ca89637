"""Puts an engine together: asks a backend for what computes, and joins it with experts, policy and look-ahead."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from edge_runtime.backends.base import Backend, Compute, Tensor
from edge_runtime.backends.memory import MemorySpace
from edge_runtime.backends.trunk import Trunk
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.manifest import Manifest, Role
from edge_runtime.config.environment import Variables
from edge_runtime.config.options import RuntimeConfig
from edge_runtime.config.resolve import EngineOptions
from edge_runtime.engine.active_policy import ActivePolicy
from edge_runtime.engine.decoder import Decoder, max_tokens
from edge_runtime.engine.parts import Parts
from edge_runtime.engine.preparation import Prepared, prepare
from edge_runtime.experts.borrowed_scratch import BorrowedScratch
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.eviction.base import EvictionRule
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.store.file_store import FileExpertStore
from edge_runtime.policy.base import Policy
from edge_runtime.prefetch import create_predictor, looks_ahead, parse_prefetch, reads_ahead
from edge_runtime.prefetch.governor import Governor
from edge_runtime.prefetch.prefetcher import PredictorContext, Prefetcher
from edge_runtime.telemetry.power import parse_choice
from edge_runtime.telemetry.power.sampler import start_sampler

if TYPE_CHECKING:
    from edge_runtime.engine.speculation.speculation import Speculation

_CHECKED_AT_OPEN: tuple[Role, ...] = ("trunk", "router", "embedding", "tokenizer", "calibration")


def assemble(path: str | os.PathLike[str], options: EngineOptions, env: Variables | None = None) -> Parts:
    """Prepare, then open the experts and load the trunk.

    Raises:
        ConfigError, BundleError, BudgetError, DeviceError: see `Engine.open`.
    """
    ready = prepare(path, options, env)
    with ExitStack() as undo:
        undo.callback(ready.backend.close)
        ready.bundle.check_unread(_CHECKED_AT_OPEN)
        parts = _load(ready, undo)
        undo.pop_all()
    return parts


def _load(ready: Prepared, undo: ExitStack) -> Parts:
    """Load everything; what has to be closed if something later fails is noted."""
    config, bundle, backend = ready.config, ready.bundle, ready.backend
    spec, plan, active = bundle.manifest.model, ready.plan, ready.active
    power, _ = start_sampler(parse_choice(config.power_meter))
    if power is not None:
        undo.callback(power.close)
    routers = routers_for(backend, bundle, active.prefetch, fits_all=plan.num_slots >= plan.all_experts)
    cache = _open_experts(ready)
    undo.callback(cache.close)
    cache.touch()
    if cache.residents.lacks_base:
        cache.begin_request()  # reads it
    trunk = backend.load_trunk(bundle, max_chunk=config.prefill_chunk)
    undo.callback(trunk.close)
    speculation = _make_speculation(config, spec, trunk)
    trunk.set_routers(routers)
    kernels = backend.make_kernels(bundle, max_tokens(config.prefill_chunk, config.parallel))
    borrowed_scratch = BorrowedScratch(
        cache,
        ready.scratch,
        kernels,
        chunk=config.prefill_chunk,
        slot_bytes=plan.slot_bytes,
        most=plan.borrowed_slots,
    )
    decoder = Decoder(
        spec,
        Compute(trunk, kernels, backend.tensors, backend.clock),
        cache,
        active,
        active.router,
        max_chunk=config.prefill_chunk,
        prefetcher=make_prefetcher(active, backend, trunk, spec, cache),
        borrowed_scratch=borrowed_scratch,
    )
    return Parts(
        bundle=bundle,
        config=config,
        tokenizer=ready.tokenizer,
        backend=backend,
        kernels=kernels,
        needs=ready.needs,
        plan=plan,
        trunk=trunk,
        kv=trunk.new_kv_cache(config.context),
        cache=cache,
        active=active,
        decoder=decoder,
        borrowed_scratch=borrowed_scratch,
        power=power,
        speculation=speculation,
    )


def _make_speculation(config: RuntimeConfig, spec: ModelSpec, trunk: Trunk[Any]) -> Speculation | None:
    if config.speculate == "off":
        return None
    from edge_runtime.engine.speculation.speculation import Speculation

    return Speculation(config.speculate, spec, trunk)


def _open_experts(ready: Prepared) -> ExpertCache:
    """Open the expert files and take memory for the slots; puts policy and eviction rule in force."""
    config, bundle, active, num_slots = ready.config, ready.bundle, ready.active, ready.plan.num_slots
    store = FileExpertStore(
        bundle, config.tier, io_threads=config.io_threads, direct_io=config.direct_io, part_bytes=config.read_chunk
    )
    try:
        rule = active.make_rule(active.choice, num_slots)
        active.switch(active.choice, rule)
        space = ready.backend.make_space(bundle.manifest.layout.tier_bytes(config.tier), config.io_threads)
        residents = make_residents(space, bundle.manifest, active.policy, rule, config, num_slots)
        return ExpertCache(residents, ExpertMemory(space, residents.ledger), store, overlaps=config.overlap)
    except BaseException:
        store.close()
        raise


def make_residents(
    space: MemorySpace, manifest: Manifest, policy: Policy, rule: EvictionRule, config: RuntimeConfig, num_slots: int
) -> Residents:
    """Cut expert memory for the tiers a policy asks for; no expert is resident yet."""
    residents = Residents.of_model(
        manifest.model,
        manifest.layout,
        rule,
        num_slots=num_slots,
        tier=config.tier,
        min_tier=policy.min_tier,
        whole=not space.gives_back_pages,
        keeps_base=policy.keeps_base,
    )
    residents.may_shrink = config.elastic
    return residents


def routers_for(backend: Backend[Any], bundle: Bundle, prefetch: str, *, fits_all: bool) -> Tensor | None:
    """Return the routers that a predictor applies, for `Trunk.set_routers`; None where none does.

    Args:
        backend: loads them.
        bundle: of the model.
        prefetch: name and parameters of the predictor.
        fits_all: every expert has a slot, so that nothing is ever read ahead.

    Raises:
        BundleError: the bundle's exporter did not store them.
    """
    return None if fits_all or not looks_ahead(prefetch) else backend.load_routers(bundle)


def make_prefetcher(
    active: ActivePolicy, backend: Backend[Any], trunk: Trunk[Any], spec: ModelSpec, cache: ExpertCache
) -> Prefetcher | None:
    """Build what reads ahead under the policy in force, its measurements fresh; None: nothing does.

    A policy that looks at residency is shown what it would be without. One that keeps a base has experts read in the
    background whatever is predicted, and must not see when they land.
    """
    policy = active.policy
    cache.residents.keep_without_ahead(policy.keeps_base or (policy.reads_residency and reads_ahead(active.prefetch)))
    if cache.fits_all:
        return None
    predictor = create_predictor(
        active.prefetch, PredictorContext(trunk, active.router, spec.hidden, backend.tensors.to_host)
    )
    if predictor is None:
        return None
    is_adaptive = parse_prefetch(active.prefetch)[1]["adaptive"]
    return Prefetcher(predictor, cache, Governor() if is_adaptive else None, is_asked=active.is_prefetch_asked)
