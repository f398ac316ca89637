"""`hobbit rm`: delete models, and what unfinished pulls of these names have brought."""

from __future__ import annotations

import argparse
import json

from edge_runtime.cli.options import add_options
from edge_runtime.config.options import BY_NAME


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    parser.add_argument("names", metavar="NAME", nargs="+", help="a model, as `hobbit list` names it")
    add_options(parser, [BY_NAME["models"], BY_NAME["json"]])


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from edge_runtime.base.sizes import format_size
    from edge_runtime.transfer.model_folder import ModelFolder

    folder = ModelFolder(args.models)
    removed = []
    for name in dict.fromkeys(args.names):
        freed = folder.remove(name)
        removed.append({"name": name, "bytes": freed})
        if not args.json:
            print(f"{name}: deleted, {format_size(freed)}")
    if args.json:
        print(json.dumps({"removed": removed}))
    return 0
