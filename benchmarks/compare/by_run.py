"""The ratio over the peer that streams, run by run: it changes with the day more than with a version. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.compare.figures import rows
from benchmarks.compare.plot import regime
from benchmarks.compare.results import label

STREAMING = "bigmoeonedge"


def lines(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a table of every run in which both sides were measured, oldest first; nothing if there was one."""
    commits = dict.fromkeys(e.get("commit") for e in entries if "side" in e)
    found = [line for commit in commits for line in _run([e for e in entries if e.get("commit") == commit])]
    if len(found) < 2:
        return
    yield ""
    yield (
        "Caption: decode over BigMoeOnEdge in every run that measured both, each side's median and rounds. Cells of "
        "one run are minutes apart; the drive of the virtual machine changes from minute to minute, and its host from "
        "day to day."
    )
    yield ""
    yield "| machine | model | memory | date | commit | ours, tok/s | BigMoeOnEdge | ratio |"
    yield "|---|---|---|---|---|---|---|---|"
    yield from sorted(found)


def _run(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows(entries):
        ours, peer = row["lossless"], row["peers"].get(STREAMING, {}).get("decode")
        if not ours or not peer:
            continue
        newest = max((cell for cell in row["cells"] if cell.get("measured")), key=lambda cell: str(cell["when"]))
        decode = ours["decode"]
        yield (
            f"| {label(newest['machine'])} | {row['model']} | {regime(row)} | {str(newest['when'])[:10]} | "
            f"{(newest.get('commit') or '-')[:8]} | {decode['tok_s']:.1f} ({decode['n']}) | "
            f"{peer['tok_s']:.1f} ({peer['n']}) | {decode['tok_s'] / peer['tok_s']:.2f}x |"
        )
