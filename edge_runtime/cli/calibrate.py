"""`hobbit calibrate`: thresholds of HOBBIT, MoBiLE and expert skipping for this model, from any text."""

from __future__ import annotations

import argparse
import json

from edge_runtime.cli.options import add_engine_arguments, repeatable_options, with_policy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    parser.add_argument("--text", metavar="FILE", required=True, help="UTF-8 text to run")
    parser.add_argument("--tokens", type=int, default=512, metavar="N", help="run the first N tokens")
    parser.add_argument(
        "--high",
        type=float,
        default=0.67,
        metavar="X",
        help="HOBBIT: share of uses at the full tier, as its paper",
    )
    parser.add_argument(
        "--low", type=float, default=0.97, metavar="X", help="HOBBIT: share of uses not skipped, as its paper"
    )
    parser.add_argument(
        "--fallback-rate", type=float, default=0.2, metavar="X", help="MoBiLE: share of tokens run twice"
    )
    add_engine_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    import numpy as np

    from edge_runtime import Engine
    from edge_runtime.base.errors import ConfigError
    from edge_runtime.cli.texts import progress, read_tokens
    from edge_runtime.policy.wrappers.thresholds import ThresholdWatcher

    for name in ("high", "low", "fallback_rate"):
        if not 0 <= getattr(args, name) <= 1:
            raise ConfigError(f"{name.replace('_', '-')}: expected 0 to 1, got {getattr(args, name):g}.")
    options = with_policy(repeatable_options(args), "mobile:threshold=0")
    with Engine.open(args.bundle, self_check=not args.no_self_check, **options) as engine:
        ids = np.asarray(read_tokens(engine, args.text, args.tokens), np.int32)
        watcher = ThresholdWatcher(engine.parts.active.policy, engine.spec.num_layers)
        with engine.deciding_with(watcher):
            for _ in progress(engine.logit_windows(ids, chunk=1), "calibrating", len(ids)):
                pass
    found = watcher.result(high=args.high, low=args.low, fallback_rate=args.fallback_rate)
    if args.json:
        print(json.dumps(found.to_json()))
    else:
        for option in (found.hobbit, *found.mobile.values(), found.skip):
            print(f"--policy {option}")
    return 0
