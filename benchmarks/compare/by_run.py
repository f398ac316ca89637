"""The ratio over the peer that streams, run by run: it changes with the day more than with a version. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.compare.figures import rows
from benchmarks.compare.plot import regime
from benchmarks.compare.results import label
from benchmarks.compare.runs import runs
from benchmarks.compare.workload import RESIDENT

Entry = Mapping[str, Any]
STREAMING = "bigmoeonedge"


def lines(entries: Sequence[Entry], goal: float) -> Iterator[str]:
    """Yield a table of every run in which both sides were measured, oldest first; nothing if there was one.

    Args:
        entries: all there are, of every build.
        goal: a ratio; how many runs under a cap reached it is said.
    """
    found = [row for row in _rows_of_runs(entries) if _both(row, STREAMING)]
    if len(found) < 2:
        return
    at_caps = [_ratio(row, STREAMING) for row in found if row["regime"] != RESIDENT]
    yield ""
    yield (
        "Caption: decode over BigMoeOnEdge in every run that measured both, each side's median and rounds. Cells of "
        "one run are minutes apart; the drive of the virtual machine changes from minute to minute, and its host from "
        f"day to day. {sum(ratio >= goal for ratio in at_caps)} of {len(at_caps)} runs under a cap reached {goal}x."
    )
    yield ""
    yield "| machine | model | memory | date | commit | ours, tok/s | BigMoeOnEdge | ratio |"
    yield "|---|---|---|---|---|---|---|---|"
    yield from (_line(row) for row in sorted(found, key=_place))


def ratios(entries: Sequence[Entry], machine: str, model: str, regime: str, peer: str) -> list[float]:
    """Return ours over a peer in every run of a row in which both decoded.

    Args:
        entries: all there are, of every build.
        machine: its label.
        model: of the row.
        regime: of the row.
        peer: its name.
    """
    asked = (machine, model, regime)
    here = [e for e in entries if "side" in e and (label(e["machine"]), e["model"], e["regime"]) == asked]
    return [_ratio(row, peer) for row in _rows_of_runs(here) if _both(row, peer)]


def _rows_of_runs(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    found = runs(entries, lambda e: (label(e["machine"]), e["model"], e["regime"], e.get("commit")))
    return [row for run in found for row in rows(run)]


def _both(row: Mapping[str, Any], peer: str) -> bool:
    return bool(row["lossless"] and row["peers"].get(peer, {}).get("decode"))


def _place(row: Mapping[str, Any]) -> tuple[str, str, int, str]:
    share = int(row["regime"]) if str(row["regime"]).isdigit() else 100
    return (label(row["cells"][0]["machine"]), row["model"], -share, str(row["cells"][0]["when"]))


def _ratio(row: Mapping[str, Any], peer: str) -> float:
    return float(row["lossless"]["decode"]["tok_s"] / row["peers"][peer]["decode"]["tok_s"])


def _line(row: Mapping[str, Any]) -> str:
    newest, ours, peer = row["cells"][-1], row["lossless"]["decode"], row["peers"][STREAMING]["decode"]
    return (
        f"| {label(newest['machine'])} | {row['model']} | {regime(row)} | {str(newest['when'])[:10]} | "
        f"{(newest.get('commit') or '-')[:8]} | {ours['tok_s']:.1f} ({ours['n']}) | "
        f"{peer['tok_s']:.1f} ({peer['n']}) | {_ratio(row, STREAMING):.2f}x |"
    )
