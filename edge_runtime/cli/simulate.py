"""`hobbit simulate`: replay a trace against policies, cache sizes and eviction rules, beside Belady's optimum."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from edge_runtime.cli.options import add_json_argument, add_options
from edge_runtime.config.options import BY_NAME

if TYPE_CHECKING:
    from edge_runtime.lab.simulator.replay import Simulation
    from edge_runtime.lab.simulator.trace import Trace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    add = parser.add_argument
    add("trace", metavar="T", help="trace written by `hobbit trace`")
    add("--policy", action="append", metavar="NAME[:K=V,...]", help="repeat to compare (default: lossless)")
    add("--eviction", action="append", metavar="NAME", help="repeat to compare (default: the engine's)")
    add("--expert-memory", action="append", metavar="SIZE|P%", help="cache size; P%% of all experts at the full tier")
    add("--memory", metavar="SIZE|auto", help="ceiling for the whole process; needs --bundle to know the rest of it")
    add("--bundle", metavar="BUNDLE", help="for --memory, and for policies that need its calibration")
    add("--tier", type=int, metavar="8|6|4|2", help="precision that counts as full (default: the trace's)")
    add("--drive-gbps", type=float, default=3.0, metavar="X", help="bandwidth of the drive model")
    add("--latency-us", type=float, default=100.0, metavar="Y", help="latency of a batch of reads")
    add("--compute-ms", type=float, metavar="Z", help="time of a token without reads; without it no tok/s is estimated")
    add("--prefetch", action="store_true", help="read ahead by the predictions the trace was recorded with")
    add("--no-belady", action="store_true", help="leave the bound out; it takes as long as the replay")
    add_options(parser, [BY_NAME["models"]])
    add_json_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from edge_runtime.config.option import options_of
    from edge_runtime.config.options import RuntimeConfig
    from edge_runtime.lab.simulator.trace import Trace

    _check(args)
    trace = Trace(args.trace)
    by_default = [str(option.default) for option in options_of(RuntimeConfig) if option.name == "eviction"]
    runs = [
        _run(trace, policy, eviction, slots, args)
        for slots in _sizes(trace, args)
        for policy in args.policy or ["lossless"]
        for eviction in args.eviction or by_default
    ]
    if args.json:
        print(
            json.dumps(
                {"trace": args.trace, "tokens": trace.tokens, "recorded_with": trace.header.policy, "runs": runs}
            )
        )
    else:
        _print_table(runs)
    return 0


def _check(args: argparse.Namespace) -> None:
    from edge_runtime.base.errors import ConfigError

    if not args.drive_gbps > 0 or args.latency_us < 0 or (args.compute_ms or 0) < 0:
        raise ConfigError("drive model: expected --drive-gbps above 0, --latency-us and --compute-ms of 0 or more.")
    if args.memory and not args.bundle:
        raise ConfigError(
            "--memory: needs --bundle, to know what the process uses besides experts. Or --expert-memory."
        )
    if args.memory and args.expert_memory:
        raise ConfigError("--memory and --expert-memory: expected one of them.")


def _tier(trace: Trace, args: argparse.Namespace) -> int:
    from edge_runtime.base.errors import ConfigError

    tier = args.tier or trace.header.tier
    if tier not in trace.header.tiers:
        raise ConfigError(f"--tier: expected one of {trace.header.tiers}, got {tier}.")
    return int(tier)


def _sizes(trace: Trace, args: argparse.Namespace) -> list[int]:
    """Cache sizes in experts of the full tier."""
    from edge_runtime.base.errors import ConfigError
    from edge_runtime.base.sizes import parse_size

    spec, tier = trace.header.model, _tier(trace, args)
    if args.memory:
        return [_planned(args, tier)]
    experts = len(spec.sparse_layers) * spec.num_experts
    sizes = []
    for text in args.expert_memory or ["100%"]:
        if not text.endswith("%"):
            sizes.append(parse_size(text, "--expert-memory") // trace.header.layout.tier_bytes(tier))
            continue
        try:
            sizes.append(int(float(text[:-1]) / 100 * experts))
        except (ValueError, OverflowError) as err:
            raise ConfigError(f"--expert-memory: expected a size or a percentage, got {text!r}.") from err
    return sizes


def _planned(args: argparse.Namespace, tier: int) -> int:
    from edge_runtime.config.resolve import EngineOptions
    from edge_runtime.engine import assembly  # noqa: F401 - planned is a process that has it loaded
    from edge_runtime.engine.preparation import plan_only

    return plan_only(args.bundle, EngineOptions.from_keywords({"memory": args.memory, "tier": tier})).plan.num_slots


def _run(trace: Trace, policy: str, eviction: str, slots: int, args: argparse.Namespace) -> dict[str, Any]:
    from edge_runtime.cli.texts import progress_bar
    from edge_runtime.lab.simulator.drive import DriveModel
    from edge_runtime.lab.simulator.replay import ReplaySettings, simulate

    tier = _tier(trace, args)
    settings = ReplaySettings(
        slots, policy, eviction, tier,
        drive=DriveModel(args.drive_gbps, args.latency_us),
        calibration=_calibration(trace, args), prefetch=args.prefetch,
    )  # fmt: skip
    with progress_bar(f"{policy}, {eviction}", trace.tokens) as advance:
        found = simulate(trace, settings, progress=advance)
    size = trace.header.layout.tier_bytes(tier)
    wait_ms = 1000 * found.drive_s / max(found.tokens, 1)
    token_ms = None if args.compute_ms is None else args.compute_ms + wait_ms
    return {
        "policy": {"name": found.policy.name, "params": found.policy.params},
        "eviction": eviction,
        "tier": tier,
        "expert_memory_bytes": slots * size,
        "tokens": found.tokens,
        "experts": found.counters.to_json(found.tokens),
        "belady": None if args.no_belady or not _has_bound(trace, found) else _bound(found, slots * size),
        "drive": {"gbps": args.drive_gbps, "latency_us": args.latency_us, "wait_ms_per_token": round(wait_ms, 4)},
        "estimated_tok_s": round(1000 / token_ms, 2) if token_ms else None,
        "replayed_tok_s": round(found.tokens / found.wall_s, 1),
    }


def _calibration(trace: Trace, args: argparse.Namespace) -> Any:
    from pathlib import Path

    from edge_runtime.bundle.calibration import read

    return read(Path(args.bundle), trace.header.model) if args.bundle else None


def _has_bound(trace: Trace, found: Simulation) -> bool:
    """Whether experts leave whole, and take as much memory as was read of them: what the bound assumes."""
    takes_more = trace.header.whole_slots and len(found.kept_bytes) > 1
    return not (found.policy.keeps_base or takes_more)


def _bound(found: Simulation, budget_bytes: int) -> dict[str, Any]:
    from edge_runtime.lab.simulator.belady import optimum

    bound = optimum(found.requests, found.kept_bytes, budget_bytes)
    read = found.counters.bytes_read
    return {
        "lower_bytes": bound.lower_bytes,
        "upper_bytes": bound.upper_bytes,
        "exact": bound.exact,
        "factor_of_upper": round(read / bound.upper_bytes, 4) if bound.upper_bytes else None,
        "factor_of_lower": round(read / bound.lower_bytes, 4) if bound.lower_bytes else None,
    }


def _print_table(runs: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    has_speed = any(run["estimated_tok_s"] is not None for run in runs)
    table = Table(box=box.SIMPLE)
    for name in ("policy", "eviction", "cache", "hit %", "bytes a token", "of Belady", "ms of reads"):
        table.add_column(name, justify="left" if name in ("policy", "eviction") else "right")
    if has_speed:
        table.add_column("tok/s", justify="right")
    for run in runs:
        table.add_row(*_cells(run), *([f"{run['estimated_tok_s']:.1f}"] if has_speed else []))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120).print(table)
    if not has_speed:
        print("No tok/s is estimated: --compute-ms states the time of a token without reads.", file=sys.stderr)


def _cells(run: dict[str, Any]) -> list[str]:
    from edge_runtime.base.sizes import format_size

    e, bound = run["experts"], run["belady"]
    params = ",".join(f"{key}={value}" for key, value in run["policy"]["params"].items())
    return [
        run["policy"]["name"] + (f":{params}" if params else ""),
        run["eviction"],
        format_size(run["expert_memory_bytes"]),
        f"{100 * e['hits'] / max(e['lookups'], 1):.1f}",
        format_size(e["bytes_per_token"] or 0),
        "" if bound is None or bound["factor_of_upper"] is None else f"{bound['factor_of_upper']:.2f}",
        f"{run['drive']['wait_ms_per_token']:.2f}",
    ]
