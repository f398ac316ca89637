"""`hobbit doctor`: traps of this machine, each with its cost and the command that mends it; and a real inference."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edge_runtime.cli.options import add_json_argument, setup_logging


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    parser.add_argument(
        "--no-inference", action="store_true", help="only look at files; run no model on the backends there are"
    )
    parser.add_argument(
        "--skip", action="append", default=[], metavar="CHECK", help="leave a check out, by name; repeatable"
    )
    parser.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR",
        help="look at a copy of another machine's /proc, /sys, /etc and /dev; runs no model",
    )  # fmt: skip
    add_json_argument(parser)
    parser.add_argument(
        "bundle", metavar="BUNDLE", nargs="?",
        help="look at its drive and file system too, and run it (default: a tiny model of the package is run)",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Run the verb; returns 1 if anything was found."""
    from edge_runtime.base.errors import ConfigError
    from edge_runtime.bundle.bundle import Bundle
    from edge_runtime.lab.doctor.device import Device
    from edge_runtime.lab.doctor.report import diagnose

    setup_logging(verbose=False)
    bundle, is_here = args.bundle and Path(args.bundle), args.root == Path("/")
    if not args.root.is_dir():
        raise ConfigError(f"root: expected a folder with proc, sys and etc, got {str(args.root)!r}.")
    if bundle and is_here:
        Bundle.open(bundle)
    device = Device.here(bundle) if is_here else Device.copied(args.root, bundle)
    found = diagnose(device, skip=args.skip, runs_model=is_here and not args.no_inference)
    print(json.dumps(found.to_json()) if args.json else "\n".join(found.lines()))
    return found.exit_code
