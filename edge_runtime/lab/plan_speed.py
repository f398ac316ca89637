"""The speed a memory plan would have at most, and where the rates behind it come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.part_names import ROUTERS, trunk_file
from edge_runtime.config.device_profile import DeviceProfile
from edge_runtime.config.memory_plan import MemoryPlan
from edge_runtime.lab import speed_estimate as speed

_WEIGHT_BYTES = {"fp32": 4.0, "fp16": 2.0, "int8": 1.03, "int4": 0.56}
"""Of the trunk, by its precision, scales included."""
_EVERY_TOKEN = ("trunk", "router")
_LOOK_AHEAD = (ROUTERS, trunk_file("routers"))
"""Layers have routers of their own: these are for reading ahead."""
_NOBODY_SAYS = {"drive": speed.ASSUMED_DRIVE_GB_S, "memory": speed.ASSUMED_MEMORY_GB_S}


@dataclass(frozen=True)
class KnownRate:
    """A rate and how anybody knows it.

    Attributes:
        name: 'drive' or 'memory'.
        gb_s: GB/s (10^9 bytes).
        is_measured: somebody measured it, or stated it for this run.
        origin: in words.
    """

    name: str
    gb_s: float
    is_measured: bool
    origin: str

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"gb_s": self.gb_s, "basis": "measured" if self.is_measured else "assumed", "origin": self.origin}


def known_rate(name: str, profile: DeviceProfile, given: float | None = None) -> KnownRate:
    """Return the rate of drive or memory: what a flag says, else the profile, else an assumption.

    Args:
        name: 'drive' or 'memory'.
        profile: of the board.
        given: by flag.
    """
    flag, fact = f"--{name}-gbps", profile.fact(f"{name}_read_gb_s")
    if given:
        return KnownRate(name, given, True, f"from {flag}")
    if fact.value:
        origin = f"from profile {profile.name}, {fact.origin}"
        return KnownRate(name, fact.value, fact.basis == "measured", origin)
    return KnownRate(name, _NOBODY_SAYS[name], False, f"assumed, {flag} states it")


def estimate_speed(
    manifest: Manifest, plan: MemoryPlan, *, drive: KnownRate, memory: KnownRate, threads: int
) -> speed.SpeedEstimate:
    """Return how fast a plan would decode at most.

    Args:
        manifest: of the bundle.
        plan: how much of the experts stays in memory.
        drive: its read rate.
        memory: its read rate.
        threads: that compute.
    """
    trunk = sum(part.bytes for part in manifest.parts if part.role in _EVERY_TOKEN and part.name not in _LOOK_AHEAD)
    weights = trunk / _WEIGHT_BYTES[manifest.trunk.precision]
    tier, base = plan.tier, plan.base_tier
    deep = speed.hit_rate(plan.planes_share) if base else 1.0  # without a base every use is at the full tier
    low_bytes, low_work = (plan.base_bytes // plan.all_experts, speed.INSTRUCTIONS[base]) if base else (0, 0.0)
    of_expert = deep * speed.INSTRUCTIONS[tier] + (1 - deep) * low_work
    work = speed.Work(
        expert_bytes=round(plan.working_set * (deep * plan.slot_bytes + (1 - deep) * low_bytes)),
        trunk_bytes=trunk,
        instructions=plan.working_set * manifest.layout.num_weights * of_expert + weights * speed.TRUNK_INSTRUCTIONS,
        cached=1.0 if base else plan.cache_share,
        other_s=manifest.model.num_layers * speed.LAYER_S,
        deep_share=deep if base else None,
    )
    return speed.SpeedEstimate(work, speed.Rates(drive.gb_s, memory.gb_s, threads))
