"""Whether a manifest can be true: its parts, their sizes, and what its model's bundle must list. Touches no file."""

from __future__ import annotations

import re

from edge_runtime.bundle.manifest import NAME, EmbeddingDtype, Manifest, Part, Role, TrunkPrecision
from edge_runtime.bundle.part_names import EMBEDDING, ROUTERS, data_file, expert_file, stacked_routers_bytes, trunk_file
from edge_runtime.bundle.record import BF16
from edge_runtime.bundle.router_data import router_parts

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PART_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*(/[A-Za-z0-9_][A-Za-z0-9_.\-]*)*")
_EMBEDDING_BYTES: dict[EmbeddingDtype, int] = {"bf16": 2, "fp16": 2, "fp32": 4}
_MOST_BYTES: dict[Role, int] = {"tokenizer": 64 << 20, "calibration": 256 << 20, "router": 64 << 20}
"""Of one part: it is read whole. Every other size follows from the model, or is counted by the memory plan."""
_TRUNK_BITS: dict[TrunkPrecision, int] = {"fp32": 32, "int8": 8, "int4": 4}
_BLOCK_SIZES = (16, 32, 64, 128, 256)
_OPSETS = range(13, 65)


def check(m: Manifest) -> None:
    """Check a manifest whose fields have their types.

    Raises:
        ValueError: a field cannot be true; names it.
    """
    layout = m.layout
    tiers = m.experts.tiers
    if not tiers or tiers != sorted(set(tiers)) or not set(tiers) <= {*layout.tiers, BF16} or tiers == [BF16]:
        raise ValueError(f"{NAME}: experts.tiers: expected ascending tiers out of {layout.tiers} (and 16), got {tiers}")
    if m.model.experts.codes == "fp4" and m.experts.num_segments > 2:
        raise ValueError(
            f"{NAME}: experts.num_segments: expected at most 2 of 4-bit floats, got {m.experts.num_segments}"
        )
    names = [p.name for p in m.parts]
    if len(set(names)) != len(names):
        raise ValueError(f"{NAME}: parts: a name is listed twice")
    for part in m.parts:
        _check_part(part)
    expected = _required(m)
    missing = expected.keys() - set(names)
    if missing:
        raise ValueError(f"{NAME}: parts: {sorted(missing)[0]!r} is missing")
    for part in m.parts:
        _check_meaning(part, expected)
        _check_cuts(part, m.experts.num_segments)
    _check_trunk(m)
    source = (m.source.config_sha256, m.source.weights_sample_sha256 or "0" * 64)
    if not all(_SHA256.fullmatch(digest) for digest in source) or not 0 <= m.source.weight_bytes < 1 << 50:
        raise ValueError(f"{NAME}: source: a digest or size is malformed")


def _check_part(part: Part) -> None:
    """Refuse a name or figure that no part can have."""
    if len(part.name) > 255 or not _PART_NAME.fullmatch(part.name):
        raise ValueError(f"{NAME}: parts: name {part.name[:80]!r} is not a plain path inside the bundle")
    if not _SHA256.fullmatch(part.sha256) or not 0 <= part.crc32c < 1 << 32:
        raise ValueError(f"{NAME}: parts: {part.name!r} has a malformed checksum")
    if not 0 <= part.bytes <= _MOST_BYTES.get(part.role, 1 << 50):
        raise ValueError(f"{NAME}: parts: {part.name!r} has an impossible size {part.bytes}")


def _check_meaning(part: Part, expected: dict[str, tuple[Role, int | None]]) -> None:
    """Refuse a part that this model's bundle does not have, or a role or layer other than its name's."""
    wanted = expected.get(part.name) or _OPTIONAL.get(part.name) or _OPTIONAL.get(part.name.split("/")[0] + "/")
    if wanted is None:
        raise ValueError(f"{NAME}: parts: {part.name[:80]!r} is no part of a bundle of this model")
    if (part.role, part.layer) != wanted:
        raise ValueError(
            f"{NAME}: parts: {part.name[:80]!r}: expected role {wanted[0]!r} and layer {wanted[1]}, "
            f"got {part.role!r} and {part.layer}"
        )


def _check_cuts(part: Part, num_segments: int) -> None:
    """Refuse digests of cuts that no file of this depth has."""
    found = [cut.num_segments for cut in part.cuts]
    wanted = list(range(1, num_segments)) if part.role == "experts" else []
    if found and found != wanted:
        raise ValueError(f"{NAME}: parts: {part.name!r}: cuts: expected num_segments {wanted}, got {found[:8]}")
    if not all(_SHA256.fullmatch(cut.sha256) and 0 <= cut.crc32c < 1 << 32 for cut in part.cuts):
        raise ValueError(f"{NAME}: parts: {part.name!r} has a malformed checksum of a cut")


def _check_trunk(m: Manifest) -> None:
    """Refuse a trunk that is not what the manifest says; the head's codes tell its precision."""
    precision, block_size = m.trunk.precision, m.trunk.block_size
    if m.trunk.opset not in _OPSETS:
        raise ValueError(f"{NAME}: trunk.opset: expected {_OPSETS[0]} to {_OPSETS[-1]}, got {m.trunk.opset}")
    sizes = (0,) if precision == "fp32" else _BLOCK_SIZES
    if block_size not in sizes:
        raise ValueError(f"{NAME}: trunk.block_size: expected one of {sizes} for {precision}, got {block_size}")
    size = m.model.vocab_size * m.model.hidden * _TRUNK_BITS[precision] // 8
    head = m.part(data_file(trunk_file("head")))
    if head.bytes != size:
        raise ValueError(f"{NAME}: parts: {head.name!r}: expected {size} bytes at {precision}, got {head.bytes}")
    row_bytes = m.model.hidden * _EMBEDDING_BYTES[m.trunk.embedding]
    exact = {ROUTERS: stacked_routers_bytes(m.model), EMBEDDING: m.model.vocab_size * row_bytes}
    exact |= router_parts(m.model)
    for part in m.parts:
        if part.bytes != exact.get(part.name, part.bytes):
            raise ValueError(f"{NAME}: parts: {part.name!r}: expected {exact[part.name]} bytes, got {part.bytes}")


def required_parts(m: Manifest) -> set[str]:
    """Names every bundle of this model must list."""
    return set(_required(m))


# parts a bundle may have besides the required ones, by name or by folder
_OPTIONAL: dict[str, tuple[Role, int | None]] = {
    trunk_file("routers"): ("trunk", None),  # not in bundles of the first releases
    ROUTERS: ("trunk", None),
    "tokenizer/": ("tokenizer", None),
    "calibration/": ("calibration", None),
}


def _required(m: Manifest) -> dict[str, tuple[Role, int | None]]:
    """Role and layer of every part this model's bundle must list, by name."""
    need: dict[str, tuple[Role, int | None]] = {
        EMBEDDING: ("embedding", None),
        trunk_file("head"): ("trunk", None),
        "tokenizer/tokenizer.json": ("tokenizer", None),
        "calibration/experts.json": ("calibration", None),
    }
    need |= dict.fromkeys(router_parts(m.model), ("router", None))
    for i, layer in enumerate(m.model.layers):
        need[trunk_file("layer", i)] = ("trunk", i)
        if layer.shared is not None:
            need[trunk_file("shared", i)] = ("trunk", i)
        if layer.sparse:
            need[expert_file(i)] = ("experts", i)
            if BF16 in m.experts.tiers:
                need[expert_file(i, BF16)] = ("experts_bf16", i)
    return need | {data_file(name): what for name, what in need.items() if name.endswith(".onnx")}
