"""`hobbit trace`: decode a text token by token and record what the router said, for `hobbit simulate`."""

from __future__ import annotations

import argparse
import json

from edge_runtime.cli.options import add_engine_arguments, repeatable_options
from edge_runtime.cli.texts import progress, read_tokens


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    parser.add_argument("--text", metavar="FILE", required=True, help="UTF-8 text to run")
    parser.add_argument("--out", metavar="T", required=True, help="trace file to write")
    parser.add_argument("--tokens", type=int, default=2048, metavar="N", help="record N tokens at most")
    parser.add_argument(
        "--half", action="store_true", help="store logits in 16 bits: half the size, a replay no longer exact"
    )
    add_engine_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from pathlib import Path

    from edge_runtime import Engine
    from edge_runtime.base.sizes import format_size
    from edge_runtime.lab.simulator.recording import record

    out = Path(args.out)
    with Engine.open(args.bundle, self_check=not args.no_self_check, **repeatable_options(args)) as engine:
        ids = read_tokens(engine, args.text, args.tokens)
        passes = record(engine, [ids], out, half=args.half, watch=lambda steps: progress(steps, "trace", len(ids)))
    size = out.stat().st_size
    if args.json:
        print(json.dumps({"trace": str(out), "tokens": len(ids), "passes": passes, "bytes": size}))
    else:
        print(f"{out}: {len(ids)} tokens in {passes} passes, {format_size(size)}")
    return 0
