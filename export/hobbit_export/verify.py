"""`--verify`: re-open a finished bundle, check that it is the one asked for, and check every byte of it."""

from __future__ import annotations

from edge_runtime.errors import ConfigError
from edge_runtime.format.bundle import Bundle
from edge_runtime.sizes import MIB
from edge_runtime.verification import check_bundle
from hobbit_export.checkpoint import Checkpoint
from hobbit_export.options import ExportOptions
from hobbit_export.progress import Progress
from hobbit_export.source import file_sha256


def check_same_source(options: ExportOptions) -> None:
    """Refuse to call a bundle verified that was made from something else.

    Raises:
        ConfigError: names what differs.
    """
    manifest = Bundle.open(options.out).manifest
    with Checkpoint.open(options.checkpoint) as checkpoint:
        weight_bytes = checkpoint.weight_bytes
    for what, expected, got in (
        ("config.json", file_sha256(options.checkpoint / "config.json")[:12], manifest.source.config_sha256[:12]),
        ("weight bytes", weight_bytes, manifest.source.weight_bytes),
        ("--tiers", list(options.tiers), manifest.experts.tiers),
        ("--trunk", options.trunk, manifest.trunk.precision),
    ):
        if expected != got:
            raise ConfigError(
                f"--out {options.out}: {what}: expected {expected}, the bundle there has {got}. "
                "Give its own checkpoint and flags, another --out, or --no-resume to replace it."
            )


def verify(options: ExportOptions, *, quiet: bool = False) -> int:
    """Check hashes and structure of every part and return their number.

    Raises:
        BundleError: names the damaged part.
    """
    bundle = Bundle.open(options.out)
    total = sum(p.bytes for p in bundle.manifest.parts)
    with Progress(total, 1, quiet=quiet or total < 64 * MIB) as progress:
        progress.begin("verify")
        return check_bundle(bundle, lambda _, count: progress.advance(count))
