"""Writes "Goals and misses" of docs/benchmarks.md and the README's line from committed results. Measures nothing."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare import by_run, misses, other_goals, results
from benchmarks.compare.figures import rows
from benchmarks.compare.misses import LLAMA, cells_of, name_of
from benchmarks.compare.other_goals import Row, verdict
from benchmarks.compare.report import put, wrapped
from benchmarks.compare.results import label
from benchmarks.compare.tables import BEFORE_READY, EXPLAINED, mark
from benchmarks.compare.workload import RESIDENT

BEGIN, END = "<!-- goals: written by python -m benchmarks.compare goals -->", "<!-- end of goals -->"
STREAMING = by_run.STREAMING

IN_MEMORY, AT_CAPS, OF_LIMIT, OTHER = 1.0, 2.5, 0.85, 5.0
"""Decode: over llama.cpp, everything in memory; over BigMoeOnEdge at a cap; of the limit at caps of 50 % and less; at a
cap, percent of the time outside trunk, experts and read wait, at most."""
PREFILL, PREFILL_AT_CAPS, COLD = 2.0, 3.0, 2.0
"""Prompts: over llama.cpp, in memory, at a cap, and the first one after a start."""
STAGES = ("prefill", "prefill_cold")
"""The two prompts, in the order of their columns."""


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
    row = max(able, key=lambda each: (len(each["peers"]), str(cells_of(each)[-1]["when"])), default=None)
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
        cells = [*name_of(row), cells_of(row)[-1]["when"][:10], *judged(row)]
        yield f"| {' | '.join(cells)} |"
    yield from reads_less(found)
    yield from misses.in_memory([row for row in ours if "missed" in judged(row)[0]], ours)
    yield from misses.of_tokens([row for row in ours if any("missed" in cell for cell in judged(row)[:3])])
    slow = [
        (row, stage) for row in ours for stage, cell in zip(STAGES, judged(row)[3:], strict=True) if "missed" in cell
    ]
    yield from misses.of_prompts([(row, stage, _allowed_ms(row, stage)) for row, stage in slow])


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
        yield f"| {' | '.join([*name_of(row), cells_of(row)[-1]['when'][:10], f'{share:.2f}', said])} |"


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
        *(_over(row, LLAMA, stage, _goal(row, stage)) or "-" for stage in STAGES),
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


def _goal(row: Row, stage: str) -> float:
    """Return what a prompt is to be over llama.cpp."""
    later = PREFILL if row["regime"] == RESIDENT else PREFILL_AT_CAPS
    return COLD if stage == "prefill_cold" else later


def _allowed_ms(row: Row, stage: str) -> float:
    tokens = cells_of(row)[0]["measured"][stage]["n"]
    return float(1000 * tokens / (_goal(row, stage) * row["peers"][LLAMA][stage]["tok_s"]))


def _machines(found: Sequence[Row]) -> str:
    return "; ".join(dict.fromkeys(label(cell["machine"]) for row in found for cell in cells_of(row)))
