"""Bundles with fewer tiers, cut out of whole ones: records keep a prefix, so files do not have to be made anew.

The manifest of a whole bundle holds the digests of every cut of its expert files. So the manifest of a cut bundle, its
`bundle_id` included, follows from the whole one's alone, before a byte of an expert is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from edge_runtime.base.checksum import crc32c
from edge_runtime.base.errors import BundleError, ConfigError
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.expert_file import MAX_HEADER_BYTES, ExpertFileHeader, header_bytes, pack_header, parse_header
from edge_runtime.bundle.manifest import NAME, Cut, ExpertsInfo, Manifest, Part
from edge_runtime.bundle.record import BF16

_BLOCK = 1 << 20
_FIXED_BYTES = 4096
"""No header is shorter."""


def choose_tiers(manifest: Manifest, text: str) -> list[int]:
    """Return the tiers that `--tiers` asks for of those a bundle has.

    Args:
        manifest: of the whole bundle.
        text: one number: the deepest wanted, with all below it; several: exactly these. `bf16` may be added.

    Raises:
        ConfigError: it is none of that, or the bundle has not got them.
    """
    has = manifest.experts.tiers
    shown = ", ".join("bf16" if tier == BF16 else str(tier) for tier in has)
    words = [word.strip().lower() for word in text.split(",")]
    wanted = [BF16 if word == "bf16" else int(word) if word in ("2", "4", "6", "8") else 0 for word in words]
    if not set(wanted) <= set(has):
        raise ConfigError(f"tiers: expected some of {shown}, which this bundle has, got {text[:60]!r}.")
    planes = [tier for tier in wanted if tier != BF16]
    if not planes:
        raise ConfigError(f"tiers: expected a tier of 2 to 8 beside bf16, got {text[:60]!r}. Say 8,bf16.")
    low = has if len(planes) == 1 else planes
    return [tier for tier in has if (tier <= max(planes) and tier in low) or tier in wanted]


def cut_manifest(manifest: Manifest, tiers: Sequence[int]) -> Manifest:
    """Return the manifest of the bundle that has only these tiers, checked, with its own `bundle_id`.

    Raises:
        BundleError: the bundle was written before manifests had digests of cuts.
    """
    if list(tiers) == manifest.experts.tiers:
        return manifest
    segments = max(tier for tier in tiers if tier != BF16) // 2
    parts = [
        _cut_part(manifest, part, segments) if part.role == "experts" else part
        for part in manifest.parts
        if part.role != "experts_bf16" or BF16 in tiers
    ]
    cut = replace(manifest, experts=ExpertsInfo(segments, list(tiers)), parts=parts)
    return manifest_file.parse(manifest_file.dump(cut))


def cut_header(header: ExpertFileHeader, segments: int) -> ExpertFileHeader:
    """Return the header of the file that has only the first `segments` segments of each record."""
    return replace(header, segment_bytes=header.segment_bytes[:segments], checksums=header.checksums[:, :segments])


def cuts_of(file: BinaryIO, seen: Callable[[bytes], None]) -> list[Cut]:
    """Read a progressive expert file from its start to its end and return the digests of its cuts.

    Args:
        file: the file.
        seen: gets every byte of it, in order.

    Raises:
        BundleError: it is no expert file.
    """
    head = file.read(_FIXED_BYTES)
    # the size of the header stands in it; a lie is found when it is parsed
    head += file.read(max(0, min(int.from_bytes(head[40:48], "little"), MAX_HEADER_BYTES) - len(head)))
    header = parse_header(head, "expert file")
    seen(head)
    running = [_Running(cut_header(header, n)) for n in range(1, len(header.segment_bytes))]
    for _ in range(header.num_experts):
        for segment, size in enumerate(header.segment_bytes):
            for block in _blocks(file, size):
                seen(block)
                for each in running[segment:]:
                    each.add(block)
    return [each.cut() for each in running]


def _blocks(file: BinaryIO, count: int) -> Iterator[bytes]:
    while count:
        block = file.read(min(_BLOCK, count))
        if not block:
            raise BundleError("expert file: ended before its last record. Export the bundle again.")
        count -= len(block)
        yield block


@dataclass
class _Running:
    """Digests of one cut while its bytes go by."""

    header: ExpertFileHeader
    crc: int = 0
    sha: Any = field(default_factory=hashlib.sha256)

    def __post_init__(self) -> None:
        self.add(pack_header(self.header))

    def add(self, block: bytes) -> None:
        self.sha.update(block)
        self.crc = crc32c(block, self.crc)

    def cut(self) -> Cut:
        return Cut(len(self.header.segment_bytes), self.sha.hexdigest(), self.crc)


def _cut_part(manifest: Manifest, part: Part, segments: int) -> Part:
    if segments == manifest.experts.num_segments:
        return part
    cut = next((cut for cut in part.cuts if cut.num_segments == segments), None)
    if cut is None:
        raise BundleError(
            f"{NAME}: {part.name}: has no digest of its first {segments} segments: the bundle is older than cuts. "
            "Take all its tiers, or export it again."
        )
    experts = manifest.model.num_experts
    size = header_bytes(experts, segments) + experts * sum(manifest.layout.segment_bytes[:segments])
    shallower = [each for each in part.cuts if each.num_segments < segments]
    return replace(part, bytes=size, sha256=cut.sha256, crc32c=cut.crc32c, cuts=shallower)
