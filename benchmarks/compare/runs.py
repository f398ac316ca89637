"""Which results are of one run: those that follow each other without a pause. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from benchmarks.compare.results import label
from benchmarks.compare.workload import RESIDENT

Entry = Mapping[str, Any]
PAUSE = timedelta(minutes=30)
"""A run ends where nothing of it is measured for so long."""


def runs(entries: Iterable[Entry], kind: Callable[[Entry], Hashable]) -> Iterator[list[Entry]]:
    """Yield the results of one kind that follow each other without a pause; descriptions of runs are left out."""
    open_runs: dict[Hashable, list[Entry]] = {}
    for entry in sorted((e for e in entries if "side" in e), key=lambda e: str(e["when"])):
        key = kind(entry)
        run = open_runs.setdefault(key, [])
        if run and _time(entry) - _time(run[-1]) > PAUSE:
            yield run
            run = open_runs[key] = []
        run.append(entry)
    yield from open_runs.values()


def _time(entry: Entry) -> datetime:
    return datetime.fromisoformat(str(entry["when"]))


def with_bus_of_run(entries: Iterable[Entry]) -> list[Entry]:
    """Return results, each with the median of what the memory bus gave before the cells of its machine's run."""
    all_of_them = list(entries)
    found = {}
    for run in runs(all_of_them, lambda entry: label(entry["machine"])):
        bus = statistics.median(entry["bus_gbps"] for entry in run)
        found |= {id(entry): bus for entry in run}
    return [{**e, "bus_gbps_of_run": found[id(e)]} if id(e) in found else e for e in all_of_them]


def bus_ceiling(cell: Entry) -> float:
    """What the memory bus gave: right before the cell, or before all cells of its run where all is in memory.

    There it is the limit, and a probe of a shared host's bus doubles and halves within minutes.
    """
    one: float = cell["bus_gbps"]
    return cell.get("bus_gbps_of_run", one) if cell["regime"] == RESIDENT else one
