"""manifest.json, the index of a bundle: read, check, write. Touches no other file. docs/format.md section 2."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from edge_runtime.base.errors import BundleError, ConfigError
from edge_runtime.base.spec import ModelSpec, check_spec, model_from_version1
from edge_runtime.base.strict import from_mapping
from edge_runtime.bundle.files import read_regular
from edge_runtime.bundle.record import BF16, RecordLayout, record_layout
from edge_runtime.bundle.router_data import router_parts
from edge_runtime.bundle.sampling_defaults import SamplingDefaults

NAME = "manifest.json"
FORMAT = "hobbit-bundle"
VERSION = 2
_VERSIONS = (1, VERSION)
MAX_MANIFEST_BYTES = 2 << 20
"""Several times what 128 layers of six parts take; parsing costs some fifty times the bytes."""
_MAX_DEPTH = 32
_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PART_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*(/[A-Za-z0-9_][A-Za-z0-9_.\-]*)*")

Role = Literal["experts", "experts_bf16", "trunk", "router", "embedding", "tokenizer", "calibration"]
TrunkPrecision = Literal["fp32", "int8", "int4"]
EmbeddingDtype = Literal["bf16", "fp16", "fp32"]
_EMBEDDING_BYTES: dict[EmbeddingDtype, int] = {"bf16": 2, "fp16": 2, "fp32": 4}
_MOST_BYTES: dict[Role, int] = {"tokenizer": 64 << 20, "calibration": 256 << 20, "router": 64 << 20}
"""Of one part: it is read whole. Every other size follows from the model, or is counted by the memory plan."""
_TRUNK_BITS: dict[TrunkPrecision, int] = {"fp32": 32, "int8": 8, "int4": 4}
_BLOCK_SIZES = (16, 32, 64, 128, 256)
_OPSETS = range(13, 65)


@dataclass(frozen=True)
class Part:
    """One file of the bundle. `name` is its path inside the bundle, with forward slashes."""

    name: str
    role: Role
    bytes: int
    sha256: str
    crc32c: int
    layer: int | None = None


@dataclass(frozen=True)
class ExpertsInfo:
    """How experts are stored. `tiers` are those the runtime may use; 16 is the bfloat16 reference."""

    num_segments: int
    tiers: list[int]


@dataclass(frozen=True)
class TrunkInfo:
    """How the dense part is stored; `block_size` is that of int8 and int4 weights (0 for fp32).

    `embedding` is the number type of the embedding table: the checkpoint's own.
    """

    precision: TrunkPrecision
    block_size: int
    opset: int
    embedding: EmbeddingDtype = "bf16"


@dataclass(frozen=True)
class SourceInfo:
    """Where the bundle came from: directory name of the checkpoint, digest of its config and its weight bytes.

    `weights_sample_sha256` is a digest of every tensor's name, type and shape and of samples of its bytes.
    """

    checkpoint: str
    config_sha256: str
    weight_bytes: int
    weights_sample_sha256: str = ""


@dataclass(frozen=True)
class Manifest:
    """The whole index. `bundle_id` is the digest of everything else in it; `version` is that of the file read."""

    model: ModelSpec
    experts: ExpertsInfo
    trunk: TrunkInfo
    source: SourceInfo
    parts: list[Part]
    created_by: str
    format: str = FORMAT
    version: int = VERSION
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    bundle_id: str = field(default="")

    @property
    def layout(self) -> RecordLayout:
        """Record geometry shared by every sparse layer."""
        return record_layout(self.model, self.experts.num_segments)

    def part(self, name: str) -> Part:
        """Return the part of that name, or raise BundleError."""
        for part in self.parts:
            if part.name == name:
                return part
        raise BundleError(f"{NAME}: part {name!r} is not listed. Export the bundle again.")

    def of_role(self, role: Role) -> list[Part]:
        """Parts of one role, in the manifest's order."""
        return [p for p in self.parts if p.role == role]


def expert_file(layer_idx: int, tier: int = 2) -> str:
    """Name of the expert file of a layer: the progressive one, or the bfloat16 one for tier 16."""
    return f"experts/layer_{layer_idx:03d}{'.bf16' if tier == BF16 else ''}.hbx"


def trunk_file(kind: Literal["layer", "shared", "head", "routers"], layer_idx: int = 0) -> str:
    """Name of a trunk graph; its weights lie beside it with `.data` in place of `.onnx`. `routers` has none."""
    return f"trunk/{kind}.onnx" if kind in ("head", "routers") else f"trunk/{kind}_{layer_idx:03d}.onnx"


def stacked_routers_bytes(spec: ModelSpec) -> int:
    """Bytes of the routers of all S sparse layers: float32 [S, D, E]."""
    return 4 * len(spec.sparse_layers) * spec.hidden * spec.num_experts


def can_look_ahead(manifest: Manifest) -> bool:
    """Whether a bundle has the graph that applies routers; bundles of earlier exporters have not."""
    return any(part.name == trunk_file("routers") for part in manifest.parts)


EMBEDDING = "trunk/embed.bin"
ROUTERS = "trunk/routers.bin"
"""The routers of all sparse layers, float32 [S, D, E]; bundles of earlier exporters have not got it."""


def digest(data: dict[str, Any]) -> str:
    """Digest of a manifest's plain data, leaving `bundle_id` out."""
    rest = {k: v for k, v in data.items() if k != "bundle_id"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def dump(manifest: Manifest) -> bytes:
    """Return manifest.json's bytes, with `bundle_id` filled in."""
    data = asdict(manifest) | {"version": VERSION}
    data["bundle_id"] = digest(data)
    return (json.dumps(data, indent=1) + "\n").encode()


def write(bundle: Path, manifest: Manifest) -> None:
    """Write manifest.json atomically: whole and on the drive, or not at all."""
    temporary = bundle / (NAME + ".tmp")
    with open(temporary, "wb") as file:
        file.write(dump(manifest))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, bundle / NAME)
    directory = os.open(bundle, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def parse(raw: bytes) -> Manifest:
    """Parse and check untrusted manifest bytes.

    Raises:
        BundleError: not JSON, wrong format or version, damaged, or any field that cannot be true.
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{NAME}: expected at most {MAX_MANIFEST_BYTES} bytes, got {len(raw)}.")
    if _depth(raw) > _MAX_DEPTH:
        raise BundleError(f"{NAME}: expected plain data, got deep nesting. Export the bundle again.")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as err:
        raise BundleError(f"{NAME}: expected JSON, got damage: {str(err)[:120]}. Export the bundle again.") from err
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BundleError(f"{NAME}: format: expected {FORMAT!r}. This is not a bundle of hobbit-export.")
    version = data.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version not in _VERSIONS:
        raise BundleError(
            f"{NAME}: version: expected 1 or {VERSION}, got {str(version)[:40]!r}. "
            "Export again with this version, or run the version that wrote it."
        )
    if data.get("bundle_id") != digest(data):
        raise BundleError(f"{NAME}: bundle_id does not match the content (damaged or edited). Export the bundle again.")
    try:
        if version == 1:
            data = data | {"model": model_from_version1(data.get("model"), f"{NAME}: model").to_json()}
        manifest = from_mapping(Manifest, data, NAME)
        check_spec(manifest.model, f"{NAME}: model")
        manifest.sampling.check(f"{NAME}: sampling")
        _check(manifest)
    except (ValueError, OverflowError) as err:
        raise BundleError(f"{err}. Export the bundle again.") from err
    return manifest


_drafts: dict[Path, Manifest] = {}


@contextmanager
def draft(bundle: Path, manifest: Manifest) -> Iterator[None]:
    """Let this process, and no other, open a bundle whose manifest is not written yet.

    For an export that must run what it has written so far: dying meanwhile leaves no manifest.json behind.
    """
    key = bundle.resolve()
    _drafts[key] = parse(dump(manifest))
    try:
        yield
    finally:
        del _drafts[key]


def read(bundle: Path) -> Manifest:
    """Read a bundle's manifest, saying clearly what is wrong if there is none."""
    if _drafts and (unwritten := _drafts.get(bundle.resolve())):
        return unwritten
    path = bundle / NAME
    if not bundle.is_dir():
        hint = (
            " GGUF files are not read: export the model's safetensors checkpoint." if bundle.suffix == ".gguf" else ""
        )
        found = "a file" if bundle.exists() else "nothing"
        raise ConfigError(f"{bundle}: expected a bundle directory, found {found}.{hint}")
    if not os.path.lexists(path):
        if (bundle / "export.journal").exists():
            raise BundleError(f"{bundle}: the export is unfinished. Run hobbit-export again to resume it.")
        if (bundle / "config.json").exists():
            raise BundleError(f"{bundle}: a checkpoint, not a bundle. Make one: hobbit-export {bundle} --out BUNDLE")
        raise BundleError(f"{bundle}: {NAME} is missing, so this is not a bundle. Write one with hobbit-export.")
    return parse(read_regular(bundle, NAME, limit=MAX_MANIFEST_BYTES))


def _depth(raw: bytes) -> int:
    """Deepest nesting of JSON text, found without parsing it: the parser recurses."""
    depth = deepest = 0
    for mark in _MARKS.findall(raw):
        if mark in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in b"]}":
            depth -= 1
    return deepest


def _check(m: Manifest) -> None:
    layout = m.layout
    tiers = m.experts.tiers
    if not tiers or tiers != sorted(set(tiers)) or not set(tiers) <= {*layout.tiers, BF16} or tiers == [BF16]:
        raise ValueError(f"{NAME}: experts.tiers: expected ascending tiers out of {layout.tiers} (and 16), got {tiers}")
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


def _check_trunk(m: Manifest) -> None:
    """Refuse a trunk that is not what the manifest says; the head's codes tell its precision."""
    precision, block_size = m.trunk.precision, m.trunk.block_size
    if m.trunk.opset not in _OPSETS:
        raise ValueError(f"{NAME}: trunk.opset: expected {_OPSETS[0]} to {_OPSETS[-1]}, got {m.trunk.opset}")
    sizes = (0,) if precision == "fp32" else _BLOCK_SIZES
    if block_size not in sizes:
        raise ValueError(f"{NAME}: trunk.block_size: expected one of {sizes} for {precision}, got {block_size}")
    size = m.model.vocab_size * m.model.hidden * _TRUNK_BITS[precision] // 8
    head = m.part(_data_file(trunk_file("head")))
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
    return need | {_data_file(name): what for name, what in need.items() if name.endswith(".onnx")}


def _data_file(graph: str) -> str:
    return graph[: -len(".onnx")] + ".data"
