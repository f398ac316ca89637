"""Writes docs/benchmarks.md (between its markers) and its plot from the results file. Measures nothing."""

from __future__ import annotations

import argparse
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare import results, tables
from benchmarks.compare.figures import drive_ceiling, rows
from benchmarks.compare.plot import draw, regime
from benchmarks.compare.results import label
from benchmarks.compare.workload import OURS

WIDTH = 100
"""Columns of a line of prose."""
BEGIN, END = "<!-- comparison: written by python -m benchmarks.compare report -->", "<!-- end of comparison -->"

Row = Mapping[str, Any]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare report", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/compare.jsonl"))
    parser.add_argument("--page", type=Path, default=Path("docs/benchmarks.md"))
    parser.add_argument("--plot", type=Path, default=Path("docs/images/benchmarks.png"))
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is out of date")
    args = parser.parse_args(argv)
    entries, left_out = results.newest(results.read(args.results))
    found = rows(entries)
    if not found:
        raise SystemExit(
            f"{args.results}: expected measured cells, found none. Run `python -m benchmarks.compare run`."
        )
    image = args.plot.relative_to(args.page.parent) if args.plot.is_relative_to(args.page.parent) else args.plot
    page = args.page.read_text()
    fresh = put(page, markdown(found, entries, str(image), left_out))
    if args.check:  # the plot is of the same figures, but of other bytes with another matplotlib
        return int(fresh != page)
    args.plot.parent.mkdir(parents=True, exist_ok=True)
    draw(found, args.plot)
    args.page.write_text(fresh)
    print(f"{args.page} and {args.plot}: {len(found)} rows")
    return 0


def put(page: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """Return the page with everything between its markers replaced.

    Raises:
        SystemExit: the markers are missing.
    """
    before, found, rest = page.partition(begin)
    _, closing, after = rest.partition(end)
    if not found or not closing:
        raise SystemExit(f"the page: expected the lines {begin!r} and {end!r}.")
    return f"{before}{begin}\n\n{text}\n{end}{after}"


def markdown(found: Sequence[Row], entries: Sequence[Mapping[str, Any]], image: str, left_out: int = 0) -> str:
    """Return tables and remarks of all rows, machine by machine.

    Args:
        found: the rows.
        entries: what they were made from.
        image: the plot.
        left_out: results of older builds that the file has too.
    """
    lines = [f"![decode speed by regime]({image})", ""]
    lines += _left_out(left_out, sum(row["earlier"] for row in found))
    for machine in dict.fromkeys(row["machine"] for row in found):
        here = [row for row in found if row["machine"] == machine]
        lines += [f"### {machine}", "", *_where(here, entries, machine), *_stand_ins(here), *tables.speed(here)]
        lines += [*tables.peers(here), *tables.limits(here), *tables.modes(here)]
    return wrapped(lines)


def _left_out(older: int, earlier: int) -> list[str]:
    """What the file has and the tables have not."""
    said = []
    if older:
        said += [f"Of what was measured with several builds only the newest counts: {older} older cells are not in "
                 "these tables."]  # fmt: skip
    if earlier:
        said += [f"A row is of one run: of the peers, {earlier} cells from before the first one of our newest commit "
                 "do not count."]  # fmt: skip
    return [" ".join(said), ""] if said else []


def _stand_ins(found: Sequence[Row]) -> list[str]:
    """What of a machine's rows is not of one run."""
    lines = [f"- **{row['model']}, {regime(row)}: {side} was not measured in the run of our newest commit. Its "
             f"results are of {days}; ratios with it are across runs.**"
             for row in found for side, days in row["stand_ins"].items()]  # fmt: skip
    return [*lines, ""] if lines else []


def wrapped(lines: Iterable[str]) -> str:
    """Return a page's text, its prose cut to `WIDTH` columns."""
    return "\n".join(part for line in lines for part in _wrapped(line))


def _wrapped(line: str) -> list[str]:
    """Return a line of prose or of a list cut to `WIDTH` columns; tables and pictures as they are."""
    if not line or line.startswith(("|", "!")):
        return [line]
    indent = " " * (len(line) - len(line.lstrip(" -")))
    return textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _where(found: Sequence[Row], entries: Sequence[Mapping[str, Any]], machine: str) -> list[str]:
    """Where and when it was measured, and the ceilings during it."""
    cells = [cell for row in found for cell in row["cells"]]
    lines = [_run_line(e) for e in entries if "settings" in e and label(e["machine"]) == machine]
    drives = [gbps for c in cells if c.get("measured") and (gbps := drive_ceiling(c))]
    buses = [c["bus_gbps"] for c in cells]
    times = sorted(c["when"] for c in cells)
    fio = [c["fio_gbps"] for c in cells if c.get("fio_gbps")]
    by_fio = f" ({_range(fio, 2)} GB/s by fio, into small pages)" if fio else " (fio was not asked)"
    return [
        *dict.fromkeys(lines),
        f"- {len(cells)} cells, {times[0]} to {times[-1]}; drive ceiling {_range(drives, 2)} GB/s{by_fio}, memory read "
        f"{_range(buses, 0)} GB/s over the cells.",
        f"- Commits of ours: {', '.join(_commits(cells))}.",
        "",
    ]


def _commits(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name the commits that our cells were measured with, and how many with each, where there are several."""
    found = Counter(cell.get("commit") or "not recorded" for cell in cells if cell["side"] == OURS)
    return [name if len(found) == 1 else f"{name} ({count} cells)" for name, count in found.items()] or ["none"]


def _run_line(entry: Mapping[str, Any]) -> str:
    m, drive, settings = entry["machine"], entry["machine"]["drive"], entry["settings"]
    versions = ", ".join(f"{name} {value}" for name, value in entry["versions"].items())
    drive_text = f"drive {drive['name']} ({m['file_system']}, read-ahead {drive['read_ahead_kib']} KiB)"
    peers = "; ".join(f"{name}, {version}" for name, version in entry["peers"].items())
    return (
        f"- {m['cpu'] or m['machine']}, {m['cpus']} CPUs, {m['isa']}, {(m['memory_bytes'] or 0) / 2**30:.1f} GiB, "
        f"{m['kernel']}, {drive_text}, {settings['threads']} threads on all sides; ours: tier {settings['tier']}, "
        f"{settings['io_threads']} reads at once; {versions}; peers: {peers}"
    )


def _range(values: Sequence[float], digits: int) -> str:
    return f"{min(values):.{digits}f}-{max(values):.{digits}f}" if values else "-"
