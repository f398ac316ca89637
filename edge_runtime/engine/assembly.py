"""Puts an engine together from a bundle and options: check, settle the configuration, plan memory, then load."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_runtime.backends.cpu.kernels import ExpertKernels
from edge_runtime.backends.cpu.trunk.kv_cache import KVCache
from edge_runtime.backends.cpu.trunk.memory import LIBRARY_BYTES, plan_trunk_bytes, scratch_bytes
from edge_runtime.backends.cpu.trunk.ort import OrtTrunk
from edge_runtime.backends.cpu.trunk.router_stack import load_routers, require_routers
from edge_runtime.backends.cpu.trunk.supported import require_supported
from edge_runtime.base.confined import reserved_bytes
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.sizes import MIB, parse_size
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.calibration import MAX_BYTES as CALIBRATION_BYTES
from edge_runtime.bundle.calibration import NAME as CALIBRATION
from edge_runtime.bundle.calibration import ExpertCalibration
from edge_runtime.bundle.calibration import parse as parse_calibration
from edge_runtime.config.environment import Variables
from edge_runtime.config.limits import read_limits
from edge_runtime.config.memory_plan import (
    Ceiling,
    MemoryNeeds,
    MemoryPlan,
    choose_prefill_chunk,
    memory_ceiling,
    plan_memory,
)
from edge_runtime.config.options import RuntimeConfig
from edge_runtime.config.resolve import EngineOptions, resolve
from edge_runtime.engine.decoder import Decoder, max_tokens
from edge_runtime.engine.tokenizer import Tokenizer
from edge_runtime.experts.borrowed_scratch import BorrowedScratch
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.eviction import RULES, RuleContext, create_rule, parse_rule
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.store.file_store import FileExpertStore
from edge_runtime.policy import POLICIES, create_policy, parse_policy
from edge_runtime.policy.base import Policy, PolicyContext
from edge_runtime.prefetch import parse_prefetch
from edge_runtime.prefetch.governor import Governor
from edge_runtime.prefetch.predictors import create_predictor, looks_ahead, predictor_bytes
from edge_runtime.prefetch.prefetcher import Prefetcher
from edge_runtime.telemetry.process import anonymous_bytes, rss_bytes, trim_heap

# kept free for what nobody counts: allocator slack, thread stacks, Python objects of a request (see docs/memory.md)
HEADROOM_BYTES = 16 * MIB
_LOGITS_BYTES = 16 * MIB
_FEW_TOKENS, _BORROWED_PARTS = 8, 8
_CHECKED_AT_OPEN = ("trunk", "embedding", "tokenizer", "calibration")


@dataclass
class Prepared:
    """Everything settled, nothing big loaded."""

    bundle: Bundle
    config: RuntimeConfig
    tokenizer: Tokenizer
    kernels: ExpertKernels
    needs: MemoryNeeds
    plan: MemoryPlan
    policy_context: PolicyContext
    policy: Policy
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
    policy_context: PolicyContext
    policy: Policy
    decoder: Decoder
    borrowed_scratch: BorrowedScratch

    def make_policy(self, text: str) -> Policy:
        """Build another policy for this engine from ``name:param=value,...``.

        Raises:
            ConfigError: unknown, or it asks for tiers below those this engine's memory is cut for: they would be read
                in full, which is never what somebody wants who asks for them.
        """
        policy = create_policy(text, self.policy_context)
        if policy.min_tier < self.cache.min_tier:
            raise ConfigError(
                f"policy: {policy.name!r} reads experts at {policy.min_tier} bits, but this engine was opened for "
                f"{self.cache.min_tier} and above. Open it with that policy."
            )
        return policy

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
    ceiling = _ceiling(config)
    needs = MemoryNeeds(
        runtime_bytes=rss_bytes() + reserved_bytes() + (0 if "onnxruntime" in sys.modules else LIBRARY_BYTES),
        trunk_bytes=plan_trunk_bytes(manifest) + predictor_bytes(config.prefetch, spec),
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
    context = PolicyContext(
        num_layers=spec.num_layers,
        num_experts=spec.num_experts,
        top_k=spec.top_k,
        tier=config.tier,
        tier_bytes=needs.slot_bytes,
        norm_topk_prob=spec.router.normalise,
        calibration=_calibration(bundle, config.policy, config.eviction),
    )
    plan = plan_memory(needs, ceiling, expert_memory=config.expert_memory)
    kernels = ExpertKernels(*shape, max_tokens(chunk, config.parallel), threads=config.threads)
    policy = create_policy(config.policy, context)
    return Prepared(bundle, config, tokenizer, kernels, needs, plan, context, policy, scratch)


def _few_tokens(config: RuntimeConfig) -> int:
    """Return the tokens of a pass up to which its scratch is not lent: one of each sequence, or a very short prompt."""
    return max(config.parallel, _FEW_TOKENS)


def _borrowable(scratch: Callable[[int], int], chunk: int, few: int) -> int:
    """Bytes of a chunk's scratch that passes of few tokens leave unused, less what an allocator may keep of them."""
    return max(0, scratch(chunk) - scratch(min(few, chunk))) * (_BORROWED_PARTS - 1) // _BORROWED_PARTS


def _calibration(bundle: Bundle, policy: str, eviction: str) -> ExpertCalibration | None:
    """What the exporter measured, if policy or eviction ask for it; checked against its checksum, then parsed."""
    if not POLICIES[parse_policy(policy)[0]].needs_calibration and not RULES[parse_rule(eviction)[0]].needs_calibration:
        return None
    raw = bundle.read_part(bundle.manifest.part(CALIBRATION), limit=CALIBRATION_BYTES)
    return parse_calibration(raw, bundle.manifest.model)


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
    fits_all = ready.plan.num_slots >= len(spec.sparse_layers) * spec.num_experts
    looking_ahead = looks_ahead(config.prefetch) and not fits_all
    if looking_ahead:
        require_routers(bundle.manifest)
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
            routers=load_routers(bundle) if looking_ahead else None,
        )
        rule = create_rule(
            config.eviction,
            RuleContext(
                num_layers=spec.num_layers,
                num_experts=spec.num_experts,
                tier_bytes=ready.needs.slot_bytes,
                full_tier=config.tier,
                top_k=spec.top_k,
                capacity=ready.plan.num_slots,
                calibration=ready.policy_context.calibration,
                price=lambda: ready.policy.price,
            ),
        )
        residents = Residents.of_model(
            spec,
            bundle.manifest.layout,
            rule,
            num_slots=ready.plan.num_slots,
            tier=config.tier,
            min_tier=ready.policy.min_tier,
        )
        cache = ExpertCache(residents, ExpertMemory(residents.ledger), store)
    except BaseException:
        store.close()
        raise
    policy = ready.policy
    borrowed_scratch = _make_borrowed_scratch(ready, cache)
    decoder = Decoder(
        spec,
        trunk,
        cache,
        ready.kernels,
        policy,
        max_chunk=config.prefill_chunk,
        parallel=config.parallel,
        prefetcher=_make_prefetcher(config, trunk, spec, cache),
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
        policy_context=ready.policy_context,
        policy=policy,
        decoder=decoder,
        borrowed_scratch=borrowed_scratch,
    )


def _make_prefetcher(config: RuntimeConfig, trunk: OrtTrunk, spec: ModelSpec, cache: ExpertCache) -> Prefetcher | None:
    predictor = None if cache.fits_all else create_predictor(config.prefetch, trunk, spec)
    if predictor is None:
        return None
    is_adaptive = parse_prefetch(config.prefetch)[1]["adaptive"]
    return Prefetcher(predictor, cache, Governor() if is_adaptive else None)


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


def replan(parts: Parts, *, memory: str | int | None, expert_memory: str | int | None) -> None:
    """Change the budget of a running engine; what is not given stays as it was opened.

    Raises:
        BudgetError: it does not fit; nothing was changed.
        ConfigError: a size is malformed.
    """
    config = parts.config
    total = config.memory if memory is None else None if memory == "auto" else parse_size(memory, "memory")
    experts = config.expert_memory if expert_memory is None else parse_size(expert_memory, "expert_memory")
    plan = plan_memory(parts.needs, _ceiling(replace(config, memory=total)), expert_memory=experts)
    parts.cache.resize(plan.num_slots)
    parts.borrowed_scratch.most = plan.borrowed_slots
    parts.plan = plan
