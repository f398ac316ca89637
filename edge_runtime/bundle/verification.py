"""Check a whole bundle against its manifest: every byte of every part, every segment of every expert."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from edge_runtime.base.checksum import crc32c
from edge_runtime.base.errors import BundleError
from edge_runtime.bundle.bundle import Bundle, reading
from edge_runtime.bundle.files import unlisted
from edge_runtime.bundle.manifest import NAME, Part
from edge_runtime.bundle.record import BF16

Progress = Callable[[str, int], None]


def check_bundle(bundle: Bundle, progress: Progress | None = None) -> int:
    """Check hashes and structure of every part.

    Args:
        bundle: an opened bundle.
        progress: called with the part's name and the bytes just checked.

    Returns:
        The number of parts checked.

    Raises:
        BundleError: names the damaged part; for experts the layer, expert and segment as well.
    """
    for part in bundle.manifest.parts:
        report = _reporter(part, progress)
        if part.role in ("experts", "experts_bf16"):
            _check_experts(bundle, part, report)
        else:
            bundle.check_part(part, sha256=True, progress=report)
    return len(bundle.manifest.parts)


def unlisted_files(bundle: Bundle) -> list[str]:
    """Return files and links in the bundle's folder that its manifest does not list, sorted. Nothing reads them."""
    return unlisted(bundle.path, {NAME, *(part.name for part in bundle.manifest.parts)})


def _reporter(part: Part, progress: Progress | None) -> Callable[[int], None]:
    return lambda count: progress(part.name, count) if progress else None


def _check_experts(bundle: Bundle, part: Part, report: Callable[[int], None]) -> None:
    assert part.layer is not None
    header = bundle.expert_header(part.layer, BF16 if part.role == "experts_bf16" else 2)
    hasher = hashlib.sha256()
    with reading(part.name), os.fdopen(bundle.open_part(part), "rb") as file:
        hasher.update(file.read(header.header_bytes))
        report(header.header_bytes)
        for expert_idx in range(header.num_experts):
            for segment, size in enumerate(header.segment_bytes):
                data = file.read(size)
                if crc32c(data) != header.checksums[expert_idx, segment]:
                    raise BundleError(
                        f"{part.name}: layer {part.layer} expert {expert_idx} segment {segment}: "
                        "checksum does not match (damaged). Export the bundle again."
                    )
                hasher.update(data)
                report(size)
    if hasher.hexdigest() != part.sha256:
        raise BundleError(f"{part.name}: SHA-256 does not match the manifest (damaged). Export the bundle again.")
