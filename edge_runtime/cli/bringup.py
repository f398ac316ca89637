"""`hobbit bringup`: the first half hour on a new device, step by step, into one file to send back."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from edge_runtime.base.ending import say
from edge_runtime.cli.options import add_json_argument

if TYPE_CHECKING:
    from edge_runtime.lab.bringup.steps import Step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    parser.add_argument(
        "bundle", metavar="BUNDLE", nargs="?", help="what is measured; the demo model, which is exported, if left out"
    )
    parser.add_argument("--out", metavar="DIR", default="hobbit-bringup", help="folder of the results")
    parser.add_argument("--minutes", type=float, default=30.0, metavar="N", help="it takes at most")
    parser.add_argument(
        "--power-modes", action="store_true", help="measure every power mode of the board; needs root, sets them back"
    )
    parser.add_argument(
        "--again", action="append", default=[], metavar="STEP", help="run a step that passed again; all: every one"
    )
    parser.add_argument("--checkout", metavar="DIR", help="source tree with tests/cuda, for `make gpu-check`")
    parser.add_argument("--list", action="store_true", help="print the steps and do nothing")
    add_json_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Run the verb; a step that fails is a result, not an error."""
    from pathlib import Path

    from edge_runtime.base.errors import ConfigError, did_you_mean
    from edge_runtime.lab.bench.power_modes import left_over_warning
    from edge_runtime.lab.bringup.bringup import Bringup, summary_lines
    from edge_runtime.lab.bringup.ending import ends_when_asked

    if not 0 < args.minutes <= 24 * 60:
        raise ConfigError(f"minutes: expected more than 0 and at most {24 * 60}, got {args.minutes:g}.")
    bundle, checkout = (None if given is None else Path(given) for given in (args.bundle, args.checkout))
    if bundle is not None and not bundle.is_dir():
        raise ConfigError(f"bundle: {bundle}: expected a folder written by hobbit-export. Check the path.")
    wanted = Bringup(bundle, Path(args.out), args.minutes, args.power_modes, tuple(args.again), checkout)
    steps = wanted.steps()
    names = ["all", *(step.name for step in steps)]
    for name in args.again:
        if name not in names:
            raise ConfigError(f"again: expected one of {', '.join(names)}, got {name!r}.{did_you_mean(name, names)}")
    if args.list:
        print("\n".join(f"{step.name:<24} {step.title}, planned with {step.minutes:g} min" for step in steps))
        minutes = sum(step.minutes for step in steps if not step.why_not)
        print(f"{minutes:g} min for those that can run here; a run takes {args.minutes:g} at most, another one goes on")
        return 0
    if (warning := left_over_warning()) and not args.power_modes:
        say(warning)
    with ends_when_asked():
        journal = wanted.run(_said, _begun)
    if args.json:
        print(json.dumps({"file": str(journal.path), "steps": journal.outcomes()}))
    else:
        print("\n".join(summary_lines(journal)))
    return 0


def _begun(step: Step) -> None:
    say(f"{step.name}: {step.title} ...")


def _said(step: Step, result: dict[str, Any]) -> None:
    why = f": {str(result['why'])[:200]}" if result.get("why") else ""
    say(f"{step.name}: {result['outcome']}{why}")
