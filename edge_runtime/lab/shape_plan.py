"""Plans boards for a model that is no bundle yet: the engine's own planner, on sizes of parts to come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_runtime.backends.base import MemoryFormulas
from edge_runtime.base.sizes import MIB
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.manifest import (
    ExpertsInfo,
    Manifest,
    Part,
    Role,
    SourceInfo,
    TrunkInfo,
    TrunkPrecision,
    can_look_ahead,
)
from edge_runtime.config.device_profile import DeviceProfile
from edge_runtime.config.environment import Environment
from edge_runtime.config.limits import Ceiling
from edge_runtime.config.memory_needs import MemoryNeeds
from edge_runtime.config.options import RuntimeConfig
from edge_runtime.config.resolve import EngineOptions
from edge_runtime.engine.active_policy import prefetch_of
from edge_runtime.engine.sizing import size_needs
from edge_runtime.lab.board_plans import BoardPlan, plan_board

PROCESS_BYTES = 50 * MIB
"""Of a process before its tokenizer: interpreter, numpy, our modules. Measured 48 MiB (x86, Python 3.11)."""
TOKEN_BYTES = 760
"""That a tokenizer takes for an entry of its vocabulary. Measured 690 to 760 (32 to 250 thousand entries, BPE)."""


@dataclass(frozen=True)
class PartToCome:
    """A part of a bundle that is to be written: name, role and size."""

    name: str
    role: Role
    bytes: int


def manifest_to_come(
    spec: ModelSpec, tiers: Sequence[int], num_segments: int, trunk: TrunkPrecision, parts: Sequence[PartToCome]
) -> Manifest:
    """Return what the manifest will say of sizes; there are no digests in it.

    Args:
        spec: the model.
        tiers: the runtime may use.
        num_segments: of a record.
        trunk: its precision.
        parts: of the bundle; those of the trunk must be among them.
    """
    return Manifest(
        model=spec,
        experts=ExpertsInfo(num_segments, sorted(tiers)),
        trunk=TrunkInfo(trunk, block_size=0, opset=0),
        source=SourceInfo("", "", 0),
        parts=[Part(part.name, part.role, part.bytes, sha256="", crc32c=0) for part in parts],
        created_by="",
    )


def plan_shape(manifest: Manifest, profile: DeviceProfile, said: Mapping[str, Any]) -> BoardPlan:
    """Plan it on a board, as `hobbit plan --boards` will plan the bundle there.

    Args:
        manifest: of the bundle to come.
        profile: of the board.
        said: options of the engine; the environment of this process says nothing.

    Raises:
        ConfigError, DeviceError: the options do not fit the model.
    """
    process = PROCESS_BYTES + TOKEN_BYTES * manifest.model.vocab_size

    def add_needs(config: RuntimeConfig, formulas: MemoryFormulas, most: Ceiling) -> MemoryNeeds:
        prefetch = prefetch_of(config, can_look_ahead=can_look_ahead(manifest))
        return size_needs(manifest, config, formulas, most, prefetch=prefetch, process_bytes=process).needs

    return plan_board(manifest, EngineOptions.from_keywords(said), Environment.of({}), profile, add_needs)
