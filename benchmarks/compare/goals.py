"""Writes "Goals and misses" of docs/benchmarks.md and the README's line from committed results. Measures nothing."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare import by_run, other_goals, results
from benchmarks.compare.figures import limits_ms, rows
from benchmarks.compare.other_goals import Row, verdict
from benchmarks.compare.plot import regime
from benchmarks.compare.report import put, wrapped
from benchmarks.compare.results import label
from benchmarks.compare.tables import BEFORE_READY, EXPLAINED, mark
from benchmarks.compare.workload import LOSSLESS, OURS, RESIDENT

BEGIN, END = "<!-- goals: written by python -m benchmarks.compare goals -->", "<!-- end of goals -->"
LLAMA, STREAMING = "llama.cpp", by_run.STREAMING

IN_MEMORY, AT_CAPS, OF_LIMIT, OTHER = 1.0, 2.5, 0.85, 5.0
"""Decode: over llama.cpp, everything in memory; over BigMoeOnEdge at a cap; of the limit at caps of 50 % and less; at a
cap, percent of the time outside trunk, experts and read wait, at most."""
PREFILL, PREFILL_AT_CAPS, COLD = 2.0, 3.0, 2.0
"""Prompts: over llama.cpp, in memory, at a cap, and the first one after a start."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare goals", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--page", type=Path, default=Path("docs/benchmarks.md"))
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    args = parser.parse_args(argv)
    entries = results.read(args.results / "compare.jsonl")
    found = rows(results.newest(entries)[0])
    lines = [
        *compared(found),
        *by_run.lines(entries, AT_CAPS),
        *other_goals.lines(args.results, args.page.parent / "frontier"),
    ]
    texts = {args.page: lines, args.readme: [headline(found, entries), ""]}
    pages = {path: path.read_text(encoding="utf-8") for path in texts}
    fresh = {path: put(page, wrapped(texts[path]), BEGIN, END) for path, page in pages.items()}
    if args.check:
        return int(fresh != pages)
    for path, text in fresh.items():
        path.write_text(text, encoding="utf-8")
    return 0


def headline(found: Sequence[Row], entries: Sequence[Mapping[str, Any]]) -> str:
    """Return what the README says: S1 at half its size, beside most peers; of such machines the one measured last.

    Args:
        found: the rows.
        entries: all results, of every build: one run may flatter, so the range of all of them is said.

    Raises:
        SystemExit: that row lacks a side.
    """
    able = [row for row in found if (row["model"], row["regime"]) == ("S1", "50") and row["lossless"]]
    row = max(able, key=lambda each: (len(each["peers"]), str(_cells(each)[-1]["when"])), default=None)
    if row is None or row["peer"]["decode"] is None:
        raise SystemExit("goals: expected S1 at 50 % of ours and of a peer, found none.")
    decode, best, count = row["lossless"]["decode"], row["peer"]["decode"], len(row["peers"])
    whose = f"the faster of {count} peers" if count > 1 else "the peer"
    when = "in an earlier run" if best["earlier"] or row["lossless"]["earlier"] else "in the same run"
    ratios = by_run.ratios(entries, row["machine"], row["model"], row["regime"], best["mode"].split()[0])
    return (
        f"**Measured** on {row['machine']}, a synthetic model of 5 B parameters under a cap of half its size: "
        f"{decode['tok_s']:.0f} tok/s, where {whose} reaches {best['tok_s']:.1f} {when}.{_range(ratios)} "
        "[docs/benchmarks.md](docs/benchmarks.md) has the machine, the method and every table."
    )


def _range(ratios: Sequence[float]) -> str:
    if len(ratios) < 2:
        return ""
    times = f"{min(ratios):.1f} to {max(ratios):.1f} times"
    return f" In {len(ratios)} runs Hobbit Edge was {times} as fast as that peer."


def compared(found: Sequence[Row]) -> Iterator[str]:
    """Yield the goals of the comparison, and the time of a token where one of decoding is missed."""
    ours = [row for row in found if row["lossless"]]
    early = any(row["lossless"]["before_ready"] for row in ours)
    yield (
        "Caption: goals of the comparison, from the cells of the table above "
        f"({_machines(ours)}). Decode: {IN_MEMORY:.1f}x of llama.cpp's best mode with everything in memory, "
        f"{AT_CAPS:.1f}x of BigMoeOnEdge's best under a cap; where it was not run, the ratio is over the strongest "
        f"peer that was, and no goal. *Of limit*: {100 * OF_LIMIT:.0f} % at 50 % and below. *Other*, time outside "
        f"trunk, experts and read wait: at most {OTHER:.0f} % under a cap. Prefill of 128 tokens: "
        f"{PREFILL:.0f}x of llama.cpp in memory, {PREFILL_AT_CAPS:.0f}x under a cap, {COLD:.0f}x for the first prompt."
        + (f" {BEFORE_READY}: {EXPLAINED}. It has no verdict." if early else "")
    )
    yield ""
    yield "| processor | model | memory | date | decode | of limit | other | prefill | cold prefill |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in ours:
        cells = [*_name(row), _cells(row)[-1]["when"][:10], *judged(row)]
        yield f"| {' | '.join(cells)} |"
    yield from reads_less(found)
    missed = [row for row in ours if any("missed" in cell for cell in judged(row)[:3])]
    if missed:
        yield ""
        yield (
            "Caption: where a goal of decoding is missed: milliseconds a token, medians of the same cells. *Drive* and "
            "*bus*: the least that the bytes which had to come, and the weights touched, take at the rates probed in "
            "the cell. *Wait* is what reads are not hidden behind the rest."
        )
        yield ""
        yield "| processor | model | memory | token | trunk | experts | wait | other | drive | bus |"
        yield "|---|---|---|---|---|---|---|---|---|---|"
        for row in missed:
            yield f"| {' | '.join([*_name(row), *profile(_cells(row))])} |"
    slow = [row for row in ours if any("missed" in cell for cell in judged(row)[3:])]
    if slow:
        yield ""
        yield (
            "Caption: where a goal of prompts is missed: milliseconds of the prompt of 128 tokens, medians of the same "
            "cells, and what its bytes take at the drive's rate; where both are missed, the later prompt."
        )
        yield ""
        yield "| processor | model | memory | prompt | took | trunk | experts | wait | other | drive |"
        yield "|---|---|---|---|---|---|---|---|---|---|"
        for row in slow:
            stage = "prefill" if "missed" in judged(row)[3] else "prefill_cold"
            name = "later" if stage == "prefill" else "first"
            yield f"| {' | '.join([*_name(row), name, *profile(_cells(row), stage, bus=False)])} |"


def reads_less(found: Sequence[Row]) -> Iterator[str]:
    """Yield what HOBBIT reads and gains beside lossless, where that read anything and what both read was counted.

    A policy that reads less is to be no slower.
    """
    both = [row for row in found if row["lossless"] and row["hobbit"]]
    both = [row for row in both if row["lossless"]["read_bytes"] and row["hobbit"]["read_bytes"] is not None]
    if not both:
        return
    yield ""
    yield (
        "Caption: HOBBIT at 4 and 2 bits over lossless of the same cells. A policy that reads fewer bytes is to be no "
        "slower."
    )
    yield ""
    yield "| processor | model | memory | date | bytes of lossless | decode over lossless |"
    yield "|---|---|---|---|---|---|"
    for row in both:
        share = row["hobbit"]["read_bytes"] / row["lossless"]["read_bytes"]
        ratio = row["hobbit"]["against_lossless"]
        said = verdict(ratio, 1.0, f"{ratio:.2f}x") if share < 1 else f"{ratio:.2f}x"
        yield f"| {' | '.join([*_name(row), _cells(row)[-1]['when'][:10], f'{share:.2f}', said])} |"


def judged(row: Row) -> list[str]:
    """Return decode, share of the limit, other time, prefill and first prompt, each with whether its goal is met."""
    ours, resident = row["lossless"], row["regime"] == RESIDENT
    decode = _over(row, LLAMA if resident else STREAMING, "decode", IN_MEMORY if resident else AT_CAPS)
    if decode is None:
        strongest = row["peer"]["decode"]
        decode = "-" if strongest is None else f"{ours['decode']['against_peer']:.2f}x ({strongest['mode'].split()[0]})"
    share = ours["share_of_limit"]
    limit = "-" if share is None else f"{100 * share:.0f} %"
    if share is not None and not resident and int(row["regime"]) <= 50:
        limit = verdict(share, OF_LIMIT, limit)
    other = "-" if ours["other_percent"] is None else f"{ours['other_percent']:.0f} %"
    if ours["other_percent"] is not None and not resident:
        other = verdict(ours["other_percent"], OTHER, other, most=True)
    return [
        decode, limit, other,
        _over(row, LLAMA, "prefill", PREFILL if resident else PREFILL_AT_CAPS) or "-",
        _over(row, LLAMA, "prefill_cold", COLD) or "-",
    ]  # fmt: skip


def _over(row: Row, peer: str, stage: str, goal: float) -> str | None:
    best, ours = row["peers"].get(peer, {}).get(stage), row["lossless"]
    if not best:
        return None
    ratio = ours[stage]["tok_s"] / best["tok_s"]
    days = " (earlier run)" if best["earlier"] or ours["earlier"] else ""
    if stage == "prefill_cold" and ours["before_ready"]:
        return f"{ratio:.2f}x{days}{mark(ours)}"
    return verdict(ratio, goal, f"{ratio:.2f}x{days}")


def profile(cells: Sequence[Mapping[str, Any]], stage: str = "decode", *, bus: bool = True) -> list[str]:
    """Return what a token (or a prompt) took, part by part, and the least its bytes take."""
    parts = [[c["measured"][stage]["ms"], *_phases(c, stage), *_least(c, stage)[: 1 + bus]] for c in cells]
    units = [c["measured"][stage]["n"] if stage == "decode" else 1 for c in cells]
    columns = zip(*([ms / n for ms in each] for each, n in zip(parts, units, strict=True)), strict=True)
    return [f"{statistics.median(column):.{1 if stage == 'decode' else 0}f}" for column in columns]


def _phases(cell: Mapping[str, Any], stage: str) -> list[float]:
    found = cell["measured"][stage]["phase_ms"]
    # before the native trunk its time was recorded as that of graphs
    trunk = sum(ms for name, ms in found.items() if name not in ("experts", "read_wait", "other"))
    return [trunk, found["experts"], found["read_wait"], found["other"]]


def _least(cell: Mapping[str, Any], stage: str) -> tuple[float, float]:
    measured = cell["measured"] | {"decode": cell["measured"][stage]}
    return limits_ms({**cell, "measured": measured})


def _cells(row: Row) -> list[Mapping[str, Any]]:
    return [c for c in row["cells"] if (c["side"], c["variant"]) == (OURS, LOSSLESS) and c.get("measured")]


def _name(row: Row) -> list[str]:
    machine = _cells(row)[0]["machine"]
    return [machine["isa"] + (" chosen" if machine.get("best_isa") else ""), row["model"], regime(row)]


def _machines(found: Sequence[Row]) -> str:
    return "; ".join(dict.fromkeys(label(cell["machine"]) for row in found for cell in _cells(row)))
