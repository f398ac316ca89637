"""Which results of a row count: a machine is faster on one day than on another, so a ratio is of one run. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.compare.workload import OURS, Cell

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Counted:
    """Results of one machine, model and regime.

    Attributes:
        cells: those that count, in the order they were measured.
        stand_ins: sides of which this run has nothing ("ours POLICY", or a peer), and the days of the earlier results
            that stand in for it. They are among `cells`.
        earlier: those of peers from before this run, which do not count.
    """

    cells: Mapping[Cell, Entry]
    stand_ins: Mapping[str, str]
    earlier: Mapping[Cell, Entry]


def counted(here: Mapping[Cell, Entry]) -> Counted:
    """Return what was measured since the first result of our newest commit, for every side that has any.

    A side that has none keeps its earlier results: a peer is not left out because nobody ran it again. Without results
    of ours there is no ratio, and everything counts.

    Args:
        here: the last result of each cell, in the order they were measured.
    """
    since = _start(here)
    late = dict(list(here.items())[since:])
    measured = {side_of(cell) for cell, entry in late.items() if entry.get("measured")}
    before = dict(list(here.items())[:since])
    old = {cell: e for cell, e in before.items() if side_of(cell) not in measured}
    days: dict[str, list[str]] = {}
    for cell, entry in old.items():
        if entry.get("measured"):
            days.setdefault(side_of(cell), []).append(str(entry["when"])[:10])
    return Counted(
        old | late,
        {side: " and ".join(dict.fromkeys((min(found), max(found)))) for side, found in days.items()},
        {cell: entry for cell, entry in before.items() if cell not in old},
    )


def side_of(cell: Cell) -> str:
    """Return what has results of its own: a peer in all its modes, or one policy of ours."""
    return f"{OURS} {cell.variant}" if cell.side == OURS else cell.side


def _start(here: Mapping[Cell, Entry]) -> int:
    """Return how many results are from before the first of our newest commit."""
    ours = [(place, entry.get("commit")) for place, (cell, entry) in enumerate(here.items()) if cell.side == OURS]
    return next((place for place, commit in ours if commit == ours[-1][1]), 0)
