"""`hobbit push`: a bundle to a folder, a server that takes PUT, or a hub; its manifest goes last."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from edge_runtime.cli.options import add_options
from edge_runtime.config.options import BY_NAME


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    parser.add_argument("bundle", metavar="BUNDLE", help="directory written by hobbit-export, or the name of a model")
    parser.add_argument(
        "target", metavar="TARGET",
        help="a folder; http:// or https:// of a folder on a server that takes PUT; or hf://org/name[@branch]",
    )  # fmt: skip
    parser.add_argument("--replace", action="store_true", help="replace another bundle that is there")
    add_options(parser, [BY_NAME["models"], BY_NAME["json"]])


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from edge_runtime.base.sizes import format_size
    from edge_runtime.cli.texts import transfer_bar
    from edge_runtime.transfer.push import PushOptions, push

    with transfer_bar("pushing") as progress:
        pushed = push(Path(args.bundle), args.target, PushOptions(args.replace), progress)
    if args.json:
        print(json.dumps(asdict(pushed)))
        return 0
    did = "was there already" if pushed.sent_bytes == 0 else f"{format_size(pushed.bytes)}"
    print(f"{pushed.target}: {did}, bundle {pushed.bundle_id[:12]}")
    print("hobbit pull " + pushed.target, file=sys.stderr)
    return 0
