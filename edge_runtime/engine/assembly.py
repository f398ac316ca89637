"""Puts an engine together from a bundle and options: check, settle the configuration, plan memory, then load."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_runtime.backends.cpu.kernels import ExpertKernels, make_kernels
from edge_runtime.backends.cpu.trunk.kv_cache import KVCache
from edge_runtime.backends.cpu.trunk.memory import LIBRARY_BYTES, plan_trunk_bytes, scratch_bytes
from edge_runtime.backends.cpu.trunk.ort import OrtTrunk
from edge_runtime.backends.cpu.trunk.router_stack import load_routers, require_routers
from edge_runtime.backends.cpu.trunk.supported import require_supported
from edge_runtime.backends.trunk import F32
from edge_runtime.base.confined import reserved_bytes
from edge_runtime.base.sizes import MIB
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.config.environment import Variables
from edge_runtime.config.limits import Ceiling, memory_ceiling, read_limits
from edge_runtime.config.memory_needs import MemoryNeeds
from edge_runtime.config.memory_plan import MemoryPlan, choose_prefill_chunk, plan_memory
from edge_runtime.config.options import RuntimeConfig
from edge_runtime.config.resolve import EngineOptions, resolve
from edge_runtime.engine.active_policy import ActivePolicy
from edge_runtime.engine.decoder import Decoder, max_tokens
from edge_runtime.engine.tokenizer import Tokenizer
from edge_runtime.experts.borrowed_scratch import BorrowedScratch
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.eviction.base import EvictionRule
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.store.file_store import FileExpertStore
from edge_runtime.policy.base import Policy
from edge_runtime.prefetch import parse_prefetch
from edge_runtime.prefetch.governor import Governor
from edge_runtime.prefetch.predictors import create_predictor, looks_ahead, predictor_bytes
from edge_runtime.prefetch.prefetcher import Prefetcher
from edge_runtime.telemetry.process import anonymous_bytes, rss_bytes, trim_heap

# kept free for what nobody counts: allocator slack, thread stacks, Python objects of a request (see docs/memory.md)
HEADROOM_BYTES = 16 * MIB
_LOGITS_BYTES = 16 * MIB
_FEW_TOKENS, _BORROWED_PARTS = 8, 8
_CHECKED_AT_OPEN = ("trunk", "router", "embedding", "tokenizer", "calibration")


@dataclass
class Prepared:
    """Everything settled, nothing big loaded."""

    bundle: Bundle
    config: RuntimeConfig
    tokenizer: Tokenizer
    kernels: ExpertKernels
    needs: MemoryNeeds
    plan: MemoryPlan
    active: ActivePolicy
    scratch: Callable[[int], int]
    """Scratch bytes of a pass of that many tokens."""


@dataclass
class Parts:
    """The parts of a running engine. `close` releases them."""

    bundle: Bundle
    config: RuntimeConfig
    tokenizer: Tokenizer
    kernels: ExpertKernels
    needs: MemoryNeeds
    plan: MemoryPlan
    trunk: OrtTrunk
    kv: KVCache
    cache: ExpertCache
    active: ActivePolicy
    decoder: Decoder
    borrowed_scratch: BorrowedScratch

    @property
    def spec(self) -> ModelSpec:
        """Shape of the model."""
        return self.bundle.manifest.model

    @property
    def backend(self) -> str:
        """Where this engine computes."""
        return self.config.backend

    @property
    def fingerprint(self) -> str:
        """Names what computes here, for results that hold only as long as it does not change."""
        return f"{self.kernels.isa}-{self.trunk.library}"

    @property
    def logits_chunk(self) -> int:
        """Tokens a pass when logits of every token are wanted, so that one pass's logits stay small."""
        row = 4 * self.bundle.manifest.model.vocab_size
        return max(1, min(self.config.logits_chunk, self.decoder.max_chunk, _LOGITS_BYTES // row))

    def close(self) -> None:
        """Stop threads and release memory, to the system too: another engine may be opened next."""
        self.cache.close()
        self.trunk.close()
        self.tokenizer.templates.close()
        trim_heap()


def prepare(path: str | os.PathLike[str], options: EngineOptions, env: Variables | None = None) -> Prepared:
    """Check a bundle, settle the configuration and plan the memory.

    Raises:
        ConfigError, BundleError, BudgetError, DeviceError: see `Engine.open`.
    """
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    require_supported(manifest.model)
    config = resolve(options, os.environ if env is None else env, manifest)
    spec, layout = manifest.model, manifest.layout
    tokenizer = Tokenizer.from_bundle(bundle)

    def scratch(chunk: int) -> int:
        return (
            ExpertKernels.scratch_bytes_for(*shape, max_tokens(chunk, config.parallel))
            + scratch_bytes(spec, chunk, config.context)
            + min(_LOGITS_BYTES, 4 * spec.vocab_size * config.logits_chunk)
        )

    shape = (spec.hidden, spec.experts.intermediate, spec.top_k)
    active = ActivePolicy(bundle, config)
    ceiling = _ceiling(config)
    needs = MemoryNeeds(
        runtime_bytes=rss_bytes() + reserved_bytes() + (0 if "onnxruntime" in sys.modules else LIBRARY_BYTES),
        trunk_bytes=plan_trunk_bytes(manifest),
        prefetch_bytes=predictor_bytes(active.prefetch, spec),
        kv_bytes_per_token=KVCache.bytes_for(spec, 1),
        context=config.context,
        scratch_bytes=0,
        tokenizer_bytes=0,  # already loaded, so it is in runtime_bytes
        headroom_bytes=HEADROOM_BYTES,
        slot_bytes={tier: layout.tier_bytes(tier) for tier in manifest.experts.tiers},
        tier=config.tier,
        num_experts=spec.num_experts,
        num_expert_layers=len(spec.sparse_layers),
        top_k=spec.top_k,
        parallel=config.parallel,
    )
    room = ceiling.bytes - sum(line.bytes for line in needs.fixed_lines())
    chunk = config.prefill_chunk or choose_prefill_chunk(
        room, scratch, longest=config.context, experts_bytes=needs.all_experts * needs.slot_bytes[config.tier]
    )
    config = replace(config, prefill_chunk=chunk)
    needs = replace(
        needs, scratch_bytes=scratch(chunk), borrowable_bytes=_borrowable(scratch, chunk, _few_tokens(config))
    )
    plan = plan_memory(needs, ceiling, expert_memory=config.expert_memory)
    kernels = make_kernels(spec, max_tokens(chunk, config.parallel), config.threads)
    return Prepared(bundle, config, tokenizer, kernels, needs, plan, active, scratch)


def _few_tokens(config: RuntimeConfig) -> int:
    """Return the tokens of a pass up to which its scratch is not lent: one of each sequence, or a very short prompt."""
    return max(config.parallel, _FEW_TOKENS)


def _borrowable(scratch: Callable[[int], int], chunk: int, few: int) -> int:
    """Bytes of a chunk's scratch that passes of few tokens leave unused, less what an allocator may keep of them."""
    return max(0, scratch(chunk) - scratch(min(few, chunk))) * (_BORROWED_PARTS - 1) // _BORROWED_PARTS


def _ceiling(config: RuntimeConfig) -> Ceiling:
    return memory_ceiling(
        read_limits(),
        requested=config.memory,
        own_anonymous_bytes=anonymous_bytes(),
        reserve_bytes=config.os_reserve,
    )


def assemble(path: str | os.PathLike[str], options: EngineOptions, env: Variables | None = None) -> Parts:
    """Prepare, then load the trunk and open the experts.

    Raises:
        ConfigError, BundleError, BudgetError, DeviceError: see `Engine.open`.
    """
    ready = prepare(path, options, env)
    config, bundle, spec = ready.config, ready.bundle, ready.bundle.manifest.model
    for part in bundle.manifest.parts:
        if part.role in _CHECKED_AT_OPEN:
            bundle.check_part(part)
    active, num_slots = ready.active, ready.plan.num_slots
    routers = routers_for(bundle, active.prefetch, fits_all=num_slots >= ready.plan.all_experts)
    store = FileExpertStore(
        bundle, config.tier, io_threads=config.io_threads, direct_io=config.direct_io, chunk_bytes=config.read_chunk
    )
    try:
        trunk = OrtTrunk(
            bundle.path,
            spec,
            threads=config.threads,
            max_chunk=config.prefill_chunk,
            embedding=bundle.manifest.trunk.embedding,
            routers=routers,
        )
        rule = active.make_rule(active.choice, num_slots)
        active.switch(active.choice, rule)
        residents = make_residents(bundle.manifest, active.policy, rule, config.tier, num_slots)
        cache = ExpertCache(residents, ExpertMemory(residents.ledger), store)
    except BaseException:
        store.close()
        raise
    borrowed_scratch = _make_borrowed_scratch(ready, cache)
    decoder = Decoder(
        spec,
        trunk,
        cache,
        ready.kernels,
        active,
        active.router,
        max_chunk=config.prefill_chunk,
        parallel=config.parallel,
        prefetcher=make_prefetcher(active, trunk, spec, cache),
        borrowed_scratch=borrowed_scratch,
    )
    return Parts(
        bundle=bundle,
        config=config,
        tokenizer=ready.tokenizer,
        kernels=ready.kernels,
        needs=ready.needs,
        plan=ready.plan,
        trunk=trunk,
        kv=trunk.new_kv_cache(config.context),
        cache=cache,
        active=active,
        decoder=decoder,
        borrowed_scratch=borrowed_scratch,
    )


def make_residents(manifest: Manifest, policy: Policy, rule: EvictionRule, tier: int, num_slots: int) -> Residents:
    """Cut expert memory for the tiers a policy asks for; no expert is resident yet."""
    return Residents.of_model(
        manifest.model, manifest.layout, rule, num_slots=num_slots, tier=tier, min_tier=policy.min_tier
    )


def routers_for(bundle: Bundle, prefetch: str, *, fits_all: bool) -> F32 | None:
    """Return the routers that a predictor applies, float32 [S, D, E]; None where none does.

    Args:
        bundle: of the model.
        prefetch: name and parameters of the predictor.
        fits_all: every expert has a slot, so that nothing is ever read ahead.

    Raises:
        BundleError: the bundle's exporter did not store them.
    """
    if fits_all or not looks_ahead(prefetch):
        return None
    require_routers(bundle.manifest)
    return load_routers(bundle)


def make_prefetcher(active: ActivePolicy, trunk: OrtTrunk, spec: ModelSpec, cache: ExpertCache) -> Prefetcher | None:
    """Build what reads ahead under the policy in force, its measurements fresh; None: nothing does."""
    predictor = None if cache.fits_all else create_predictor(active.prefetch, trunk, spec, active.router)
    if predictor is None:
        return None
    is_adaptive = parse_prefetch(active.prefetch)[1]["adaptive"]
    return Prefetcher(predictor, cache, Governor() if is_adaptive else None, is_asked=active.is_prefetch_asked)


def _make_borrowed_scratch(ready: Prepared, cache: ExpertCache) -> BorrowedScratch:
    def release() -> None:
        ready.kernels.release_scratch()
        trim_heap()

    return BorrowedScratch(
        cache,
        few_tokens=_few_tokens(ready.config),
        unused_bytes=lambda tokens: _borrowable(ready.scratch, ready.config.prefill_chunk, tokens),
        slot_bytes=ready.plan.slot_bytes,
        most=ready.plan.borrowed_slots,
        release=release,
    )


def plan_again(parts: Parts, config: RuntimeConfig, prefetch: str) -> MemoryPlan:
    """Plan the memory of a running engine for other options; changes nothing.

    Args:
        parts: the engine's; the length of its passes stays.
        config: says how much memory there is.
        prefetch: name and parameters of the predictor.

    Raises:
        BudgetError: it does not fit.
    """
    needs = replace(parts.needs, prefetch_bytes=predictor_bytes(prefetch, parts.spec))
    return plan_memory(needs, _ceiling(config), expert_memory=config.expert_memory)
