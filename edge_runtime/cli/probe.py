"""`hobbit probe`: what this machine gives a bundle: drive, memory, kernels, trunk, and their overlap."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from edge_runtime.cli.options import add_engine_arguments, engine_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    group = parser.add_argument_group("what is measured")
    group.add_argument(
        "--probe", action="append", default=[], metavar="NAME",
        help="only this one: drive-link, drive, drive-sustained, memory, kernels, trunk, decode, overlap; repeatable",
    )  # fmt: skip
    group.add_argument("--seconds", type=float, default=0.5, metavar="S", help="time of each point")
    group.add_argument(
        "--sustained", type=float, default=0.0, metavar="S",
        help="read the drive for S seconds, 30 at least, to see whether it slows down; 0: not",
    )  # fmt: skip
    group.add_argument("--out", metavar="FILE", help="write the report, with every sample, as JSON")
    add_engine_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run the verb; 1 if nothing at all could be measured."""
    from edge_runtime.lab.probes import Subject
    from edge_runtime.lab.probes.report import names_of, report_json, run_probes, write_report

    names = names_of(args.probe)
    subject = Subject(Path(args.bundle), engine_options(args), args.seconds, args.sustained)
    outcomes = []
    for outcome in run_probes(subject, names):
        outcomes.append(outcome)
        if not args.json:
            print(f"{outcome.name}:", *(f"  {line}" for line in outcome.lines()), sep="\n", flush=True)
    report = report_json(subject, outcomes)
    if args.out:
        write_report(Path(args.out), report)
        print(f"report: {args.out}", file=sys.stderr)
    if args.json:
        print(json.dumps(report))
    return 0 if any(outcome.result is not None for outcome in outcomes) else 1
