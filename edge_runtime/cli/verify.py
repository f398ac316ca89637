"""`hobbit verify`: hashes and structure of every part, every expert segment, then the numerical self-check."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from edge_runtime.cli.options import add_engine_arguments, engine_options

if TYPE_CHECKING:
    from edge_runtime.bundle.bundle import Bundle
    from edge_runtime.bundle.self_check import SelfCheck


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    parser.add_argument("--structure-only", action="store_true", help="skip the numerical self-check")
    add_engine_arguments(parser, opens_engine=False)


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from edge_runtime import Engine
    from edge_runtime.bundle.bundle import Bundle
    from edge_runtime.bundle.self_check import self_check
    from edge_runtime.bundle.verification import check_bundle, unlisted_files

    options = engine_options(args)
    bundle = Bundle.open(args.bundle)
    columns = (TextColumn("verifying {task.fields[part]}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=sum(p.bytes for p in bundle.manifest.parts), part="")
        checked = check_bundle(bundle, lambda part, count: bar.update(task, advance=count, part=part))
    strangers = unlisted_files(bundle)
    if strangers:
        print(f"verify: files the manifest does not list, never read: {', '.join(strangers[:20])}", file=sys.stderr)
    result: dict[str, object] = {"bundle_id": bundle.manifest.bundle_id, "parts": checked, "self_check": None}
    result["unlisted"] = strangers
    found = None
    if not args.structure_only:
        with Engine.open(args.bundle, self_check=False, **options) as engine:
            found = self_check(engine, bundle, engine.parts.config.tier, context=engine.plan.context)
            result["self_check"] = found.to_json()
    print(json.dumps(result) if args.json else "\n".join(_lines(bundle, checked, found)))
    return 0


def _lines(bundle: Bundle, checked: int, found: SelfCheck | None) -> list[str]:
    """What was checked, for people."""
    from edge_runtime.base.sizes import format_size

    size = format_size(sum(part.bytes for part in bundle.manifest.parts))
    lines = [
        f"ok          {bundle.path}",
        f"hashes      {checked} parts, {size}: every byte is as it was exported",
    ]
    if found is None:
        return [*lines, "self-check  skipped (--structure-only)"]
    return [
        *lines,
        f"self-check  the logits of {found.tokens} tokens correlate {found.correlation:.5f} with the source model's "
        f"(at least {found.limit:.3f} is expected)",
        f"            largest error {100 * found.max_relative_error:.2f} % of the largest logit",
    ]
