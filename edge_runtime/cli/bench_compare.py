"""`hobbit bench --compare A B`: two reports side by side, with what is noise and what else differs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def run_compare(args: argparse.Namespace) -> int:
    """Print the comparison."""
    from edge_runtime.lab.bench.compare import compare, read_report

    found = compare(*(read_report(Path(folder)) for folder in args.compare))
    if args.json:
        print(json.dumps(found))
    else:
        _print(found)
    return 0


def _print(found: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("", "A", "B", "change", "95 % interval", "verdict"):
        table.add_column(heading)
    for row in found["metrics"]:
        table.add_row(row["metric"], _value(row, "a"), _value(row, "b"), _percent(row), _interval(row), row["verdict"])
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    console.print(table)
    drift = found["sentinel_drift_percent"]
    console.print(f"noise: the sentinels alone moved by up to {drift:.1f} %; a smaller change is none")
    for row in found["differs"]:
        console.print(f"differs: {row['what']}: {row['a']} / {row['b']}", soft_wrap=True, markup=False)
    for text in found["warnings"]:
        console.print(f"warning: {text}", soft_wrap=True, markup=False)


def _value(row: dict[str, Any], side: str) -> str:
    return f"{row[side]:.6g} {row['unit']}".rstrip()


def _percent(row: dict[str, Any]) -> str:
    return "" if row["change_percent"] is None else f"{row['change_percent']:+.1f} %"


def _interval(row: dict[str, Any]) -> str:
    interval = row["interval_percent"]
    return "" if interval is None else f"{interval[0]:+.1f} to {interval[1]:+.1f} %"
