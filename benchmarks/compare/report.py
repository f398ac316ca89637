"""Writes docs/benchmarks.md (between its markers) and its plot from the results file. Measures nothing."""

from __future__ import annotations

import argparse
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare import results
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
        lines += [f"### {machine}", "", *_where(here, entries, machine), *_stand_ins(here), *_speed(here)]
        lines += [*_peers(here), *_ours(here), *_modes(here)]
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


def _speed(found: Sequence[Row]) -> list[str]:
    lines = [
        "Caption: tokens a second on the machine and dates above, median of the rounds (their number in brackets); "
        "*ratio* is ours over the strongest peer in its best mode, measured in the same run."
        + (" **Where it says *earlier run* it is not.**" if any(row["stand_ins"] for row in found) else ""),
        "",
        "| model | memory | strongest peer, decode | ours lossless | ratio | ours HOBBIT | ratio | over lossless "
        "| strongest peer, prefill | ours | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        peer, ours, hobbit = row["peer"], row["lossless"], row["hobbit"]
        cells = [
            row["model"],
            regime(row),
            _peer(peer["decode"], 2),
            _tok_s(ours, "decode", 2),
            _against(ours, peer, "decode"),
            _tok_s(hobbit, "decode", 2),
            _against(hobbit, peer, "decode"),
            _dated(_times(hobbit and hobbit.get("against_lossless")), ours, hobbit),
            _peer(peer["prefill"], 1),
            _tok_s(ours, "prefill", 1),
            _against(ours, peer, "prefill"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _peers(found: Sequence[Row]) -> list[str]:
    """Every peer at its best, where there are several."""
    if len({name for row in found for name in row["peers"]}) < 2:
        return []
    lines = [
        "Caption: every peer in its best mode, tokens a second, medians; same runs.",
        "",
        "| model | memory | peer | decode | read a token | prefill | cold prefill | peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        for name, best in row["peers"].items():
            decode = best["decode"]
            read, peak = (decode["read_bytes"], decode["peak_bytes"]) if decode else (None, None)
            cells = [row["model"], regime(row), name, _peer(decode, 2), _mb(read), _peer(best["prefill"], 1),
                     _peer(best["prefill_cold"], 1), _mb(peak)]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _ours(found: Sequence[Row]) -> list[str]:
    lines = [
        "Caption: what was read, and what limits us, while decoding; same runs. The columns:",
        "",
        "- *read a token*: bytes fetched from the drive, by the kernel's count;",
        "- *of drive*: read bandwidth while reads are under way, over the ceiling probed in the same cell;",
        "- *of limit*: the least time these misses (at the drive's ceiling) or these touched weights (at the bus's) "
        "take, over the time taken;",
        "- *other*: time outside trunk, experts and read wait;",
        "- *peak*: of the cgroup, page cache included;",
        "- *commit*: of ours; - where it was not recorded.",
        "",
        "| model | memory | side | commit | read a token | hits | of drive | of limit | other | peak "
        "| cold prefill tok/s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        best = row["peer"]["decode"]
        if best:
            cold = row["peer"]["prefill_cold"]
            lines.append(
                f"| {row['model']} | {regime(row)} | {best['mode']} | | {_mb(best['read_bytes'])} | | | | | "
                f"{_mb(best['peak_bytes'])} | {'-' if cold is None else format(cold['tok_s'], '.1f')} |"
            )
        for name in ("lossless", "hobbit"):
            ours = row[name]
            if ours:
                share = ours["share_of_limit"]
                limit = "-" if share is None else f"{_percent(share)} ({ours['limited_by']})"
                lines.append(
                    f"| {row['model']} | {regime(row)} | ours, {name} | {ours['commit'] or '-'} | "
                    f"{_mb(ours['read_bytes'])} | "
                    f"{_percent(ours['hit_rate'])} | {_percent(ours['share_of_drive'])} | {limit} | "
                    f"{ours['other_percent']:.0f} % | {_mb(ours['peak_bytes'])} | {ours['prefill_cold']['tok_s']:.1f} |"
                )
    return [*lines, ""]


def _modes(found: Sequence[Row]) -> list[str]:
    """Every mode of the peers that was tried, and every failure."""
    lines = ["The peers' modes (decode / prefill tok/s, rounds; later rounds repeat the best of the first):", ""]
    for row in found:
        tried = []
        for name, mode in row["modes"].items():
            name += " (earlier run)" if mode["earlier"] else ""
            if mode["decode"]:
                prefill = f"{mode['prefill']['tok_s']:.1f}" if mode["prefill"] else "-"
                tried.append(f"{name} {mode['decode']['tok_s']:.2f} / {prefill} ({mode['decode']['n']})")
            else:
                tried.append(f"{name}: {mode['error']}")
        lines.append(f"- {row['model']}, {regime(row)}: {'; '.join(tried)}")
        failed = [f"{where}: {why}" for where, why in row["errors"].items() if where.startswith("ours")]
        lines += [f"  - failed: {text}" for text in failed]
    return [*lines, ""]


def _peer(best: Mapping[str, Any] | None, digits: int) -> str:
    return "-" if best is None else _dated(f"{best['tok_s']:.{digits}f} ({best['mode']}, {best['n']})", best)


def _tok_s(ours: Mapping[str, Any] | None, stage: str, digits: int) -> str:
    return "-" if ours is None else _dated(f"{ours[stage]['tok_s']:.{digits}f} ({ours[stage]['n']})", ours)


def _against(ours: Mapping[str, Any] | None, peer: Row, stage: str) -> str:
    return _dated(_times(ours and ours[stage]["against_peer"]), ours, peer[stage])


def _dated(text: str, *sides: Mapping[str, Any] | None) -> str:
    """Return a figure marked if a side of it was not measured in the row's run."""
    return f"{text} **(earlier run)**" if text != "-" and any(side and side["earlier"] for side in sides) else text


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _mb(count: float | None) -> str:
    return "-" if count is None else f"{count / 1e6:.1f} MB"
