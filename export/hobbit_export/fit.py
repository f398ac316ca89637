"""Will the bundle fit the packaged device profiles? An estimate from sizes; `hobbit plan` on the device decides."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edge_runtime.backends.cpu.trunk.kv_cache import HostKVCache
from edge_runtime.backends.cpu.trunk.memory import LIBRARY_BYTES, loaded_bytes, scratch_bytes
from edge_runtime.base.errors import BudgetError
from edge_runtime.base.sizes import MIB, format_size
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.record import record_layout
from edge_runtime.config.limits import Ceiling
from edge_runtime.config.memory_needs import MemoryNeeds
from edge_runtime.config.memory_plan import plan_memory
from edge_runtime.config.profiles import DeviceProfile, load_profile, profile_names
from hobbit_export.options import BF16_TIER, ExportOptions
from hobbit_export.plan import PlannedPart

_PROCESS_BYTES = 96 * MIB
"""Interpreter, numpy and tokenizer library, before a model; measured 60 to 90 MiB."""
_HEADROOM_BYTES = 64 * MIB


@dataclass(frozen=True)
class Fit:
    """How a bundle fits one profile.

    Attributes:
        memory_bytes: memory of the board less the system's reserve; None where the profile names no size.
        floor_bytes: the least the runtime needs at the profile's context.
        all_resident_bytes: what it needs to keep every expert in memory.
        cached_share: share of the experts that fit, 0 to 1; None without memory_bytes, or where the floor does not fit.
    """

    tier: int
    context: int
    memory_bytes: int | None
    floor_bytes: int
    all_resident_bytes: int
    cached_share: float | None

    def __str__(self) -> str:
        needs = f"needs {format_size(self.floor_bytes)}, with every expert {format_size(self.all_resident_bytes)}"
        if self.memory_bytes is None:
            return needs
        has = f"; has about {format_size(self.memory_bytes)}"
        if self.cached_share is None:
            return f"does not fit: {needs}{has}"
        return f"{needs}{has}: caches {100 * self.cached_share:.0f} % of the experts"

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def fit_profiles(spec: ModelSpec, parts: list[PlannedPart], options: ExportOptions) -> dict[str, Fit]:
    """Profile name -> how a bundle of these parts fits it."""
    return {name: _fit(load_profile(name), spec, parts, options) for name in profile_names()}


def _fit(profile: DeviceProfile, spec: ModelSpec, parts: list[PlannedPart], options: ExportOptions) -> Fit:
    needs = _needs(profile, spec, parts, options)
    ceiling = profile.value("memory")
    memory = None if ceiling == "auto" else int(ceiling)
    if memory is None and profile.memory_bytes:
        memory = profile.memory_bytes - int(profile.value("os_reserve"))
    share = None
    if memory is not None:
        try:
            share = plan_memory(needs, Ceiling(memory, "--memory")).cache_share
        except BudgetError:
            share = None
    full = needs.floor_bytes() + (needs.all_experts - needs.top_k) * needs.slot_bytes[needs.tier]
    return Fit(needs.tier, needs.context, memory, needs.floor_bytes(), full, share)


def _needs(profile: DeviceProfile, spec: ModelSpec, parts: list[PlannedPart], options: ExportOptions) -> MemoryNeeds:
    layout = record_layout(spec, options.num_segments)
    slots = {t: layout.tier_bytes(t) for t in options.tiers if t != BF16_TIER}
    trunk = [p.bytes for p in parts if p.kind == "trunk"]
    wanted, chunk = profile.value("context"), profile.value("prefill_chunk")
    context = spec.max_context if wanted == "auto" else min(wanted, spec.max_context)
    chunk = 128 if chunk == "auto" else chunk
    return MemoryNeeds(
        runtime_bytes=_PROCESS_BYTES + LIBRARY_BYTES,
        trunk_bytes=loaded_bytes(sum(trunk), 0, len(trunk)),
        kv_bytes_per_token=HostKVCache.bytes_for(spec, 1) - HostKVCache.bytes_for(spec, 0),
        state_bytes=HostKVCache.bytes_for(spec, 0),
        context=context,
        scratch_bytes=scratch_bytes(spec, chunk, context),
        tokenizer_bytes=5 * sum(p.bytes for p in parts if p.kind == "tokenizer"),
        headroom_bytes=_HEADROOM_BYTES,
        slot_bytes=slots,
        tier=max(slots),
        num_experts=spec.num_experts,
        num_expert_layers=len(spec.sparse_layers),
        top_k=spec.top_k,
    )
