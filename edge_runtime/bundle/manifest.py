"""What manifest.json, the index of a bundle, says: docs/format.md section 2. `manifest_file` reads and writes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edge_runtime.base.errors import BundleError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.part_names import trunk_file
from edge_runtime.bundle.record import RecordLayout, record_layout
from edge_runtime.bundle.sampling_defaults import SamplingDefaults

NAME = "manifest.json"
FORMAT = "hobbit-bundle"
VERSIONS = (1, 2, 3)
"""Of the format, those that are read. A bundle is written in the oldest that can hold it, never in version 1."""

Role = Literal["experts", "experts_bf16", "trunk", "router", "embedding", "tokenizer", "calibration"]
TrunkPrecision = Literal["fp32", "int8", "int4"]
EmbeddingDtype = Literal["bf16", "fp16", "fp32"]


@dataclass(frozen=True)
class Cut:
    """Digests of the file that is left of an expert file when records keep only their first `num_segments` segments."""

    num_segments: int
    sha256: str
    crc32c: int


@dataclass(frozen=True)
class Part:
    """One file of the bundle. `name` is its path inside the bundle, with forward slashes.

    `cuts` are there for progressive expert files with more than one segment, ascending; none in older bundles.
    """

    name: str
    role: Role
    bytes: int
    sha256: str
    crc32c: int
    layer: int | None = None
    cuts: list[Cut] = field(default_factory=list)


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

    `weights_sample_sha256` is a digest of every tensor's name, type and shape and of samples of its bytes;
    `ignored_keys` are keys of the config that the person who exported wanted ignored.
    """

    checkpoint: str
    config_sha256: str
    weight_bytes: int
    weights_sample_sha256: str = ""
    ignored_keys: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Manifest:
    """The whole index. `bundle_id` is the digest of everything else in it; `version` is that of the file read.

    A manifest that was not read has version 0.
    """

    model: ModelSpec
    experts: ExpertsInfo
    trunk: TrunkInfo
    source: SourceInfo
    parts: list[Part]
    created_by: str
    format: str = FORMAT
    version: int = 0
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


def version_for(model: ModelSpec) -> int:
    """Return the version a bundle of this model is written in: 3 where codes are no equal steps."""
    return 2 if model.experts.codes == "linear" else 3


def can_look_ahead(manifest: Manifest) -> bool:
    """Whether a bundle has the graph that applies routers; bundles of earlier exporters have not."""
    return any(part.name == trunk_file("routers") for part in manifest.parts)
