"""Adds up what a model needs of the memory, and how long its passes are: from sizes, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_runtime.backends.base import MemoryFormulas
from edge_runtime.backends.scratch import PassScratch
from edge_runtime.base.confined import held_bytes, reserved_bytes
from edge_runtime.base.sizes import MIB
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.config.limits import Ceiling
from edge_runtime.config.memory_needs import MemoryNeeds
from edge_runtime.config.memory_plan import choose_prefill_chunk
from edge_runtime.config.options import RuntimeConfig
from edge_runtime.engine.active_policy import ActivePolicy
from edge_runtime.engine.parts import LOGITS_BYTES
from edge_runtime.policy.base import Policy
from edge_runtime.prefetch import predictor_bytes
from edge_runtime.telemetry.process import rss_bytes

# kept free for what nobody counts: allocator slack, thread stacks, Python objects of a request (see docs/memory.md)
HEADROOM_BYTES = 16 * MIB


@dataclass(frozen=True)
class SizedModel:
    """What a model needs, once it is known how much memory there is: that says how long passes are."""

    config: RuntimeConfig
    needs: MemoryNeeds
    active: ActivePolicy
    scratch: PassScratch


@dataclass(frozen=True)
class SizedNeeds:
    """What follows from sizes: the longest pass, what the process needs with it, and what passes take."""

    chunk: int
    needs: MemoryNeeds
    scratch: PassScratch


def size_model(
    bundle: Bundle, config: RuntimeConfig, formulas: MemoryFormulas, ceiling: Ceiling, *, request_bytes: int = 0
) -> SizedModel:
    """Add up what a model needs under a ceiling, here or on another board.

    Args:
        bundle: of the model.
        config: the options; the length of its passes is chosen here where it is open.
        formulas: of the backend.
        ceiling: for the whole process.
        request_bytes: kept for requests before they are tokens.
    """
    active = ActivePolicy(bundle, config)
    helper_bytes = held_bytes()  # asked first: a helper that starts takes more every moment
    sized = size_needs(
        bundle.manifest, config, formulas, ceiling,
        prefetch=active.prefetch, base=base_tier(active.policy), process_bytes=rss_bytes() + reserved_bytes(),
        request_bytes=request_bytes,
    )  # fmt: skip
    needs = replace(sized.needs, helper_bytes=helper_bytes)
    return SizedModel(replace(config, prefill_chunk=sized.chunk), needs, active, sized.scratch)


def size_needs(
    manifest: Manifest,
    config: RuntimeConfig,
    formulas: MemoryFormulas,
    ceiling: Ceiling,
    *,
    prefetch: str,
    process_bytes: int,
    base: int = 0,
    request_bytes: int = 0,
) -> SizedNeeds:
    """Add up what a model needs from sizes alone, so that the bundle need not be there yet.

    Args:
        manifest: names the model, its tiers, and the parts of the trunk with their sizes.
        config: the options; the length of passes is chosen here where it is open.
        formulas: of the backend.
        ceiling: for the whole process.
        prefetch: name and parameters of the predictor.
        process_bytes: of a process that has the tokenizer loaded, and no library of the backend's.
        base: the tier every expert stays in memory at; 0: none does.
        request_bytes: kept for requests before they are tokens.
    """
    spec = manifest.model
    logits_bytes = min(LOGITS_BYTES, 4 * spec.vocab_size * config.logits_chunk)
    scratch = PassScratch(formulas, spec, config.context, config.parallel, logits_bytes)
    needs_of = _needs(
        manifest, config, formulas, scratch, prefetch,
        base=base, process_bytes=process_bytes, request_bytes=request_bytes,
    )  # fmt: skip
    least = needs_of(1)
    chunk = config.prefill_chunk or choose_prefill_chunk(
        ceiling.bytes - sum(line.bytes for line in least.fixed_lines()) + scratch.bytes_for(1),
        scratch.bytes_for,
        longest=config.context,
        experts_bytes=least.all_experts * least.slot_bytes[config.tier],
    )
    return SizedNeeds(chunk, needs_of(chunk), scratch)


def _needs(
    manifest: Manifest,
    config: RuntimeConfig,
    formulas: MemoryFormulas,
    scratch: PassScratch,
    prefetch: str,
    *,
    base: int,
    process_bytes: int,
    request_bytes: int,
) -> Callable[[int], MemoryNeeds]:
    """Return what says what the process needs for passes of that many tokens."""
    spec, layout = manifest.model, manifest.layout
    runtime_bytes = process_bytes + formulas.library_bytes()
    landing_bytes = formulas.landing_bytes(layout.tier_bytes(config.tier), config.io_threads)

    def needs(chunk: int) -> MemoryNeeds:
        return MemoryNeeds(
            runtime_bytes=runtime_bytes,
            trunk_bytes=formulas.trunk_bytes(manifest),
            prefetch_bytes=predictor_bytes(prefetch, spec, formulas),
            kv_bytes_per_token=formulas.kv_bytes(spec, 1) - formulas.kv_bytes(spec, 0),
            state_bytes=formulas.kv_bytes(spec, 0),
            context=config.context,
            scratch_bytes=scratch.bytes_for(chunk) + landing_bytes,
            workspace_bytes=formulas.workspace_bytes(),
            borrowable_bytes=scratch.unused(chunk, scratch.few_tokens),
            tokenizer_bytes=0,  # it is in runtime_bytes
            request_bytes=request_bytes,
            headroom_bytes=HEADROOM_BYTES,
            slot_bytes={tier: layout.tier_bytes(tier) for tier in manifest.experts.tiers},
            tier=config.tier,
            num_experts=spec.num_experts,
            num_expert_layers=len(spec.sparse_layers),
            top_k=spec.top_k,
            parallel=config.parallel,
            base_tier=base,
        )

    return needs


def base_tier(policy: Policy) -> int:
    """The tier that a policy wants every expert in memory at; 0: none."""
    return policy.min_tier if policy.keeps_base else 0
