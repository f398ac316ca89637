"""manifest.json, the index of a bundle: read, check, write. Touches no other file. docs/format.md section 2."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from edge_runtime.errors import BundleError, ConfigError
from edge_runtime.format.record import BF16, RecordLayout
from edge_runtime.spec import ModelSpec, check_spec
from edge_runtime.strict import from_mapping

NAME = "manifest.json"
FORMAT = "hobbit-bundle"
VERSION = 1
MAX_MANIFEST_BYTES = 64 << 20
_PART_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*(/[A-Za-z0-9_][A-Za-z0-9_.\-]*)*")

Role = Literal["experts", "experts_bf16", "trunk", "embedding", "tokenizer", "calibration"]
TrunkPrecision = Literal["fp32", "int8", "int4"]
EmbeddingDtype = Literal["bf16", "fp16", "fp32"]


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
    """Where the bundle came from: directory name of the checkpoint, digest of its config and its weight bytes."""

    checkpoint: str
    config_sha256: str
    weight_bytes: int


@dataclass(frozen=True)
class Manifest:
    """The whole index. `bundle_id` is the digest of everything else in it."""

    model: ModelSpec
    experts: ExpertsInfo
    trunk: TrunkInfo
    source: SourceInfo
    parts: list[Part]
    created_by: str
    format: str = FORMAT
    version: int = VERSION
    bundle_id: str = field(default="")

    @property
    def layout(self) -> RecordLayout:
        """Record geometry shared by every sparse layer."""
        return RecordLayout(self.model.hidden, self.model.expert_intermediate, self.experts.num_segments)

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


def trunk_file(kind: Literal["layer", "shared", "head"], layer_idx: int = 0) -> str:
    """Name of a trunk graph; its weights lie beside it with `.data` in place of `.onnx`."""
    return "trunk/head.onnx" if kind == "head" else f"trunk/{kind}_{layer_idx:03d}.onnx"


EMBEDDING = "trunk/embed.bin"


def digest(data: dict[str, Any]) -> str:
    """Digest of a manifest's plain data, leaving `bundle_id` out."""
    rest = {k: v for k, v in data.items() if k != "bundle_id"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def dump(manifest: Manifest) -> bytes:
    """Return manifest.json's bytes, with `bundle_id` filled in."""
    data = asdict(manifest)
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
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as err:
        raise BundleError(f"{NAME}: expected JSON, got damage: {err}. Export the bundle again.") from err
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BundleError(f"{NAME}: format: expected {FORMAT!r}. This is not a bundle of hobbit-export.")
    if data.get("version") != VERSION or isinstance(data.get("version"), bool):
        raise BundleError(
            f"{NAME}: version: expected {VERSION}, got {str(data.get('version'))[:40]!r}. "
            "Export again with this version, or run the version that wrote it."
        )
    if data.get("bundle_id") != digest(data):
        raise BundleError(f"{NAME}: bundle_id does not match the content (damaged or edited). Export the bundle again.")
    try:
        manifest = from_mapping(Manifest, data, NAME)
        check_spec(manifest.model, f"{NAME}: model")
        _check(manifest)
    except (ValueError, OverflowError) as err:
        raise BundleError(f"{err}. Export the bundle again.") from err
    return manifest


def read(bundle: Path) -> Manifest:
    """Read a bundle's manifest, saying clearly what is wrong if there is none."""
    path = bundle / NAME
    if not bundle.is_dir():
        raise ConfigError(f"{bundle}: expected a bundle directory, found {'a file' if bundle.exists() else 'nothing'}.")
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError as err:
        if (bundle / "export.journal").exists():
            raise BundleError(f"{bundle}: the export is unfinished. Run hobbit-export again to resume it.") from err
        raise BundleError(
            f"{bundle}: {NAME} is missing, so this is not a bundle. Write one with hobbit-export."
        ) from err
    except OSError as err:
        raise BundleError(f"{path}: cannot be read: {err.strerror}.") from err
    return parse(raw)


def _check(m: Manifest) -> None:
    layout = m.layout
    tiers = m.experts.tiers
    if not tiers or tiers != sorted(set(tiers)) or not set(tiers) <= {*layout.tiers, BF16} or tiers == [BF16]:
        raise ValueError(f"{NAME}: experts.tiers: expected ascending tiers out of {layout.tiers} (and 16), got {tiers}")
    names = [p.name for p in m.parts]
    if len(set(names)) != len(names):
        raise ValueError(f"{NAME}: parts: a name is listed twice")
    for part in m.parts:
        if len(part.name) > 255 or not _PART_NAME.fullmatch(part.name):
            raise ValueError(f"{NAME}: parts: name {part.name[:80]!r} is not a plain path inside the bundle")
        if not re.fullmatch(r"[0-9a-f]{64}", part.sha256) or not 0 <= part.crc32c < 1 << 32:
            raise ValueError(f"{NAME}: parts: {part.name!r} has a malformed checksum")
        if not 0 <= part.bytes < 1 << 50:
            raise ValueError(f"{NAME}: parts: {part.name!r} has an impossible size {part.bytes}")
    missing = required_parts(m) - set(names)
    if missing:
        raise ValueError(f"{NAME}: parts: {sorted(missing)[0]!r} is missing")


def required_parts(m: Manifest) -> set[str]:
    """Names every bundle of this model must list."""
    need = {EMBEDDING, trunk_file("head"), "tokenizer/tokenizer.json", "calibration/experts.json"}
    for i, layer in enumerate(m.model.layers):
        need.add(trunk_file("layer", i))
        if layer.shared_intermediate:
            need.add(trunk_file("shared", i))
        if layer.sparse:
            need.update(expert_file(i, tier) for tier in {2, *m.experts.tiers} if tier in (2, BF16))
    return need | {name[: -len(".onnx")] + ".data" for name in need if name.endswith(".onnx")}
