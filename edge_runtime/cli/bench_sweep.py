"""`hobbit bench --sweep` and `--power-modes`: a run for every point, and all of them in one table."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.cli.options import said_flags
from edge_runtime.cli.texts import progress_bar
from edge_runtime.config.options import ENGINE_OPTIONS

if TYPE_CHECKING:
    from edge_runtime.lab.bench.points import Point
    from edge_runtime.lab.bench.power_modes import Mode, PowerModes
    from edge_runtime.lab.bench.sweep import Done

_OWN = (
    "prompt_tokens", "gen_tokens", "repeat", "warmup", "cache", "prompt_file", "temperature", "probe_seconds",
    "trace_tokens", "idle_seconds", "gate_rise", "gate_seconds",
)  # fmt: skip
_OWN_SWITCHES = ("power", "no_sentinel", "no_png", "no_self_check")


def run_sweep(args: argparse.Namespace) -> int:
    """Run every point; exit code 1 if none of them could be measured."""
    from edge_runtime.lab.bench.folder import default_folder, make_folder
    from edge_runtime.lab.bench.points import parse_points

    points = parse_points(args.sweep or [])
    modes = _modes(args)
    out = Path(args.out) if args.out else default_folder(Path(args.bundle))
    make_folder(out)
    (out / "report.json").unlink()  # the place can be written to; a sweep's file has another name
    results: list[Done] = []
    notes: list[str] = []
    chosen = modes[0].choose(args.power_modes) if modes else []
    changing = modes[0].changing() if modes else nullcontext()
    with changing, progress_bar("points", len(points) * max(len(chosen), 1)) as advance:
        for done in _run(args, points, modes, chosen, out, notes):
            results.append(done)
            advance(1)
            _write(out, results, args, notes)
    if not results:
        return 1
    sweep = _write(out, results, args, notes)
    if args.json:
        print(json.dumps(sweep))
    else:
        _print(sweep, out)
    return 0 if any(done.report is not None for done in results) else 1


def _modes(args: argparse.Namespace) -> list[PowerModes]:
    """Return the board's power modes, nothing if none was asked for."""
    if not args.power_modes:
        return []
    from edge_runtime.base.errors import RequestError
    from edge_runtime.lab.bench.power_modes import PowerModes
    from edge_runtime.telemetry.power import parse_choice

    if not args.change_power_mode:
        raise RequestError(
            "power-modes: this changes the board's power mode for everything that runs on it, and back at the end. "
            "Add --change-power-mode to allow that."
        )
    return [PowerModes(parse_choice(args.power_meter or "auto").root)]


def _run(
    args: argparse.Namespace, points: list[Point], modes: list[PowerModes], chosen: list[Mode], out: Path,
    notes: list[str],
) -> Iterator[Done]:  # fmt: skip
    from edge_runtime.lab.bench.points import flags_of
    from edge_runtime.lab.bench.sweep import run_point

    flags, bundle = _flags(args), Path(args.bundle)
    if not chosen:
        for point in points:
            yield run_point(bundle, flags, point, out)
        return
    for mode in chosen:
        failed = modes[0].set(mode)
        if failed is not None:
            notes.append(f"power mode {mode.number} ({mode.name}) was left out: {failed}")
            print(f"bench: {notes[-1]}", file=sys.stderr)
            continue
        for point in points:
            named = {"power-mode": mode.name} | point
            yield run_point(bundle, flags, named, out, flags_of(point))


def _flags(args: argparse.Namespace) -> list[str]:
    """Return what was said, as flags of one point."""
    from edge_runtime.lab.bench.points import flags_of

    said = {name.replace("_", "-"): str(value) for name, value in said_flags(args, ENGINE_OPTIONS).items()}
    words = flags_of(said)
    for name in _OWN:
        if (value := getattr(args, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words + [f"--{name.replace('_', '-')}" for name in _OWN_SWITCHES if getattr(args, name)]


def _write(out: Path, results: list[Done], args: argparse.Namespace, notes: list[str]) -> dict[str, Any]:
    from edge_runtime.lab.bench.folder import write_whole
    from edge_runtime.lab.bench.sweep import SWEEP_HTML, SWEEP_JSON, sweep_json, sweep_page

    sweep = sweep_json(results, shlex.join(["hobbit", *args.words]), notes)
    write_whole(out / SWEEP_JSON, json.dumps(sweep, indent=1).encode())
    write_whole(out / SWEEP_HTML, sweep_page(sweep).encode())
    return sweep


def _print(sweep: dict[str, Any], out: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from edge_runtime.lab.bench.sweep import table

    head, *rows = table(sweep)
    shown = Table(box=box.SIMPLE, pad_edge=False)
    for heading in head:
        shown.add_column(heading)
    for row in rows:
        shown.add_row(*row)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 180)
    console.print(shown)
    console.print(f"report: {out}", soft_wrap=True)
