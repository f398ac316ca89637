"""`hobbit bench`: repeated requests, what they took and what they used; sweeps, power modes, and reports compared."""

from __future__ import annotations

import argparse
import sys

from edge_runtime.cli.options import add_engine_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    _add_workload(parser)
    _add_conditions(parser)
    group = parser.add_argument_group("report")
    group.add_argument("--out", metavar="DIR", help="folder to write (default: hobbit-bench-BUNDLE-TIME)")
    group.add_argument(
        "--no-png", action="store_true", help="leave out the PNG plots; they are left out without matplotlib, too"
    )
    group.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="measure nothing: show how report B differs from A, with noise"
    )
    _add_sweeps(parser)
    add_engine_arguments(parser, needs_bundle=False)


def _add_workload(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is measured")
    group.add_argument("--prompt-tokens", type=int, default=128, metavar="N", help="tokens of each prompt")
    group.add_argument("--gen-tokens", type=int, default=128, metavar="N", help="tokens generated after each")
    group.add_argument("--repeat", type=int, default=5, metavar="R", help="measured requests")
    group.add_argument("--warmup", type=int, default=1, metavar="N", help="requests before them, not measured")
    group.add_argument(
        "--cache", choices=("warm", "cold"), default="warm",
        help="warm: one engine; cold: a new engine for each request, bundle dropped from the page cache, and proven so",
    )  # fmt: skip
    group.add_argument("--prompt-file", metavar="FILE", help="prompts from a UTF-8 text, not random tokens")
    group.add_argument("--temperature", type=float, default=1.0, metavar="X", help="of sampling; 0 is greedy")
    group.add_argument(
        "--probe-seconds", type=float, default=1.0, metavar="S", help="seconds of a drive probe; 0: none"
    )
    group.add_argument(
        "--trace-tokens", type=int, default=4, metavar="N",
        help="tokens of a request at the end whose spans are recorded, not measured; 0: none",
    )  # fmt: skip


def _add_conditions(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("conditions")
    group.add_argument("--power", action="store_true", help="refuse to run where energy cannot be measured")
    group.add_argument(
        "--idle-seconds", type=float, default=3.0, metavar="S", help="idle power measured first, where there is a meter"
    )
    group.add_argument(
        "--no-sentinel", action="store_true", help="leave out the request that is run at the start and at the end"
    )
    group.add_argument(
        "--gate-rise",
        type=float,
        default=5.0,
        metavar="C",
        help="a request waits while it is so much hotter than first",
    )
    group.add_argument("--gate-seconds", type=float, default=60.0, metavar="S", help="longest wait for that; 0: none")


def _add_sweeps(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sweeps", "Each point is a run with a report of its own, in a folder of --out.")
    group.add_argument(
        "--sweep", nargs="+", metavar="NAME=V,...", help="every combination: memory=1GiB,2GiB policy=lossless,hobbit"
    )
    group.add_argument(
        "--power-modes", metavar="all|N,...", help="a Jetson's modes of nvpmodel; needs --change-power-mode"
    )
    group.add_argument(
        "--change-power-mode", action="store_true", help="allow that: the mode is set back, even if this is killed"
    )


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from edge_runtime.base.errors import RequestError

    if args.compare:
        from edge_runtime.cli.bench_compare import run_compare

        return run_compare(args)
    if args.bundle is None:
        raise RequestError("bundle: expected a folder written by hobbit-export, got none. Name it.")
    _say_left_over_mode()
    if args.sweep or args.power_modes:
        from edge_runtime.cli.bench_sweep import run_sweep

        return run_sweep(args)
    from edge_runtime.cli.bench_run import run_bench

    return run_bench(args)


def _say_left_over_mode() -> None:
    from edge_runtime.lab.bench.power_modes import left_over_warning

    if warning := left_over_warning():
        print(warning, file=sys.stderr)
