"""Will the bundle fit the packaged device profiles? The engine's planner on sizes to come; `hobbit plan` decides."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

from edge_runtime.base.sizes import format_size
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.manifest import Manifest, Role, TrunkPrecision
from edge_runtime.config.profiles import load_profile, profile_names
from edge_runtime.lab.board_plans import BoardPlan
from edge_runtime.lab.shape_plan import PartToCome, manifest_to_come, plan_shape
from hobbit_export.expected_parts import ExpectedPart
from hobbit_export.options import ExportOptions


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


def fit_profiles(spec: ModelSpec, parts: list[ExpectedPart], options: ExportOptions) -> dict[str, Fit]:
    """Profile name -> how a bundle of these parts fits it."""
    manifest = expected_manifest(spec, parts, options)
    return {name: _fit(plan_shape(manifest, load_profile(name), {})) for name in profile_names()}


def expected_manifest(spec: ModelSpec, parts: list[ExpectedPart], options: ExportOptions) -> Manifest:
    """Return what the bundle's manifest will say of sizes."""
    to_come = [PartToCome(part.name, cast("Role", part.kind), part.bytes) for part in parts]
    trunk = cast("TrunkPrecision", options.first_trunk)
    return manifest_to_come(spec, options.tiers, options.num_segments, trunk, to_come)


def _fit(board: BoardPlan) -> Fit:
    needs = board.needs
    return Fit(
        needs.tier,
        needs.context,
        None if board.ceiling is None else board.ceiling.bytes,
        needs.floor_bytes(),
        board.all_bytes,
        None if board.plan is None else board.plan.cache_share,
    )
