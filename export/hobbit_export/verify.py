"""`--verify`: re-open a finished bundle, check that it is the one asked for, every byte of it, and what it computes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from edge_runtime.base.errors import BudgetError, ConfigError
from edge_runtime.base.sizes import MIB
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.trunk_choice import read as read_trunk_choice
from edge_runtime.bundle.verification import check_bundle
from hobbit_export.options import AUTO_TRUNK, ExportOptions
from hobbit_export.origins import open_origin
from hobbit_export.progress import Progress
from hobbit_export.source import sample_sha256

if TYPE_CHECKING:
    from edge_runtime.engine.api import Engine

CHECK_SHARE = 0.5
"""Of --memory that the closing check takes, process and all; all of it where the runtime does not fit into that."""
_log = logging.getLogger(__name__)


def check_same_source(options: ExportOptions) -> None:
    """Refuse to call a bundle verified that was made from something else.

    Raises:
        ConfigError: names what differs.
    """
    bundle = Bundle.open(options.out)
    manifest = bundle.manifest
    origin = open_origin(options.checkpoint, options.ignore_keys, options.tokenizer, options.files)
    with origin.storage as files:
        weight_bytes, sample = files.weight_bytes, sample_sha256(files)
    for what, expected, got in (
        ("configuration", origin.config_sha256[:12], manifest.source.config_sha256[:12]),
        ("weight bytes", weight_bytes, manifest.source.weight_bytes),
        ("weights (digest of samples)", sample[:12], manifest.source.weights_sample_sha256[:12]),
        ("--tiers", list(options.tiers), manifest.experts.tiers),
        ("--tiers: codes", options.codes, manifest.model.experts.codes),
        ("--trunk", _trunk_of(options, bundle), manifest.trunk.precision),
        ("--ignore-key", sorted(options.ignore_keys), manifest.source.ignored_keys),
    ):
        if expected != got:
            raise ConfigError(
                f"--out {options.out}: {what}: expected {expected}, the bundle there has {got}. "
                "Give its own checkpoint and flags, another --out, or --no-resume to replace it."
            )


def check_files(options: ExportOptions) -> int:
    """Compare the whole files of a bundle's source with the digests that their store states; return how many.

    What the export received of them is not kept, so that only what `check_same_source` read now is compared with them.

    Raises:
        BundleError: one is not that file.
    """
    names = options.files.provable() if options.files else []
    for name in names:
        assert options.files is not None
        options.files.check_whole(name, lambda share: None)
    return len(names)


def _trunk_of(options: ExportOptions, bundle: Bundle) -> str:
    """Precision that the bundle's trunk must have: of "auto" what its export chose, or int8 where it had no choice."""
    chosen = read_trunk_choice(bundle) if options.trunk == AUTO_TRUNK else None
    return chosen.trunk if chosen else options.first_trunk


def verify(options: ExportOptions, *, quiet: bool = False) -> dict[str, Any]:
    """Check hashes and structure of every part, then run the numerical self-check.

    Returns:
        `parts`: their number; `self_check`: its outcome at the deepest tier, or None where the runtime does not fit
        into --memory.

    Raises:
        BundleError: names the damaged part, or the runtime's logits are not those of the source.
    """
    bundle = Bundle.open(options.out)
    total = sum(p.bytes for p in bundle.manifest.parts)
    with Progress(total, 1, quiet=quiet or total < 64 * MIB) as progress:
        progress.begin("verify")
        parts = check_bundle(bundle, lambda _, count: progress.advance(count))
    return {"parts": parts, "self_check": run_self_check(options)}


def run_self_check(options: ExportOptions) -> dict[str, Any] | None:
    """Run the finished bundle and compare its logits with the source model's.

    Returns:
        The outcome at the deepest tier, or None (with a warning) where the runtime does not fit into --memory.

    Raises:
        BundleError: the runtime's logits are not those of the source.
    """
    from edge_runtime.bundle.self_check import self_check

    try:
        with open_engine(options) as engine:
            config = engine.parts.config
            return self_check(engine, engine.parts.bundle, config.tier, context=config.context).to_json()
    except BudgetError as err:
        _log.warning("self-check skipped, --memory is too small for the runtime: %s", err)
        return None


def open_engine(options: ExportOptions, **chosen: Any) -> Engine:
    """Open what is written, within `CHECK_SHARE` of --memory, or all of it where that is too little.

    Args:
        options: of the export.
        chosen: further options of the runtime.

    Raises:
        BudgetError: the runtime does not fit into --memory.
    """
    from edge_runtime.engine.api import Engine

    chosen |= {"policy": "lossless", "self_check": False}
    try:
        return Engine.open(options.out, memory=int(options.memory_bytes * CHECK_SHARE), **chosen)
    except BudgetError:
        return Engine.open(options.out, memory=options.memory_bytes, **chosen)
