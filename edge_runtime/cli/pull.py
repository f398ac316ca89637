"""`hobbit pull`: a bundle from elsewhere into the folder of models, with the tiers that are wanted and no others."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from edge_runtime.base.errors import ConfigError
from edge_runtime.cli.options import add_options
from edge_runtime.config.options import BY_NAME

_MOST_CONNECTIONS = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    add = parser.add_argument
    add("origin", metavar="ORIGIN", help="https://host/folder, org/name[@revision] on a hub, or a folder")
    add(
        "--tiers", metavar="T[,T...]",
        help="precisions to bring: one number is the deepest, with those below it; a list names them; bf16 may be "
        "added (default: all there are)",
    )  # fmt: skip
    add("--name", metavar="NAME", help="name of the model here (default: the last part of the address)")
    add("--bundle-id", metavar="HEX", help="refuse any other bundle than this one; its first 8 digits or more")
    add("--replace", action="store_true", help="replace a model of that name")
    add("--connections", type=int, default=4, metavar="N", help="files to fetch at a time")
    add_options(parser, [BY_NAME["models"], BY_NAME["json"]])


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from edge_runtime.cli.texts import transfer_bar
    from edge_runtime.transfer.model_folder import ModelFolder
    from edge_runtime.transfer.origin import origin_of
    from edge_runtime.transfer.pull import PullOptions, pull

    if not 1 <= args.connections <= _MOST_CONNECTIONS:
        raise ConfigError(f"connections: expected 1 to {_MOST_CONNECTIONS}, got {args.connections}.")
    options = PullOptions(args.tiers, args.name, args.bundle_id, args.replace, args.connections)
    origin = origin_of(args.origin)
    with transfer_bar(f"pulling {origin.label}") as progress:
        pulled = pull(origin, ModelFolder(args.models), options, progress)
    if args.json:
        print(json.dumps(asdict(pulled)))
        return 0
    from edge_runtime.base.sizes import format_size

    tiers = ", ".join("bf16" if tier == 16 else str(tier) for tier in pulled.tiers)
    did = (
        "was here already" if pulled.was_there else f"{format_size(pulled.received_bytes)} received, every byte checked"
    )
    print(f"{pulled.name}: {format_size(pulled.bytes)}, tiers {tiers}, {did}")
    print(f"hobbit run {pulled.name} --prompt TEXT", file=sys.stderr)
    return 0
