"""A small valid manifest, and ways to make it lie with a correct digest."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
from specs import model_spec, version1

from edge_runtime.backends.cpu.trunk.memory import plan_trunk_bytes, scratch_bytes
from edge_runtime.backends.cpu.trunk.rope import Rotary
from edge_runtime.backends.cpu.trunk.supported import require_supported
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import MAX_CONTEXT, ModelSpec
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.manifest import ExpertsInfo, Manifest, Part, SourceInfo, TrunkInfo
from edge_runtime.bundle.manifest_check import required_parts
from edge_runtime.bundle.part_names import EMBEDDING


def small_spec(**changes: Any) -> ModelSpec:
    return model_spec(**({"eos_token_ids": [0]} | changes))


def small_manifest(tiers: tuple[int, ...] = (2, 4, 6, 8), **changes: Any) -> Manifest:
    draft = Manifest(
        model=small_spec(**changes),
        experts=ExpertsInfo(4, list(tiers)),
        trunk=TrunkInfo("fp32", 0, 18),
        source=SourceInfo("tiny", "0" * 64, 1000),
        parts=[],
        created_by="test",
    )
    for name in sorted(required_parts(draft)):
        table = draft.model.vocab_size * draft.model.hidden
        size = {"trunk/head.data": 4 * table, "trunk/embed.bin": 2 * table}.get(name, 10)
        draft.parts.append(Part(name, role_of(name), size, "0" * 64, 0, layer_of(name)))
    return draft


def as_version1(manifest: Manifest) -> dict[str, Any]:
    """The plain data of a manifest as exporters before version 2 wrote it."""
    return json.loads(manifest_file.dump(manifest)) | {"version": 1, "model": version1(manifest.model)}


def role_of(name: str) -> Any:
    if name.endswith(".bf16.hbx"):
        return "experts_bf16"
    return "embedding" if name == EMBEDDING else name.split("/")[0]


def layer_of(name: str) -> int | None:
    match = re.search(r"/(?:layer|shared)_(\d+)", name)
    return int(match[1]) if match else None


def resealed(data: dict[str, Any]) -> bytes:
    """Dump plain data with a digest that matches, as a liar who knows the format would."""
    try:
        data["bundle_id"] = manifest_file.digest(data)
    except (TypeError, ValueError):
        pass
    return json.dumps(data).encode()


GOOD = {2: json.loads(manifest_file.dump(small_manifest())), 1: as_version1(small_manifest())}
VERSIONS = sorted(GOOD)


def works(manifest: Manifest) -> None:
    """Whatever the runtime computes from a manifest before it opens a part."""
    limit = manifest.model.context_limit
    assert 1 <= limit <= MAX_CONTEXT
    assert plan_trunk_bytes(manifest) >= 0
    for name in required_parts(manifest):
        part = manifest.part(name)
        assert (part.role, part.layer) == (role_of(name), layer_of(name))
    try:
        require_supported(manifest.model)
    except ConfigError:
        return
    rotary = Rotary(manifest.model.ropes[0], manifest.model.max_context)
    with np.errstate(all="raise", under="ignore"):
        for start, tokens in ((0, 3), (limit - 1, 1)):
            cos, sin = rotary.cos_sin(start, tokens)
            assert np.isfinite(cos).all()
            assert np.isfinite(sin).all()
    assert scratch_bytes(manifest.model, 16, limit) > 0
