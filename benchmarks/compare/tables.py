"""The report's tables of one machine. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.compare.figures import READY_SINCE
from benchmarks.compare.plot import regime

Row = Mapping[str, Any]

BEFORE_READY = "†"
EXPLAINED = (
    f"measured under a cap before {READY_SINCE[:16].replace('T', ' ')} UTC, when the first prompt began while memory "
    "was still being taken; a service begins after that"
)


def speed(found: Sequence[Row]) -> list[str]:
    """Return the table of ours beside the strongest peer."""
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


def peers(found: Sequence[Row]) -> list[str]:
    """Return every peer at its best, where there are several."""
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


def limits(found: Sequence[Row]) -> list[str]:
    """Return what was read while decoding, and what limits ours."""
    lines = [
        "Caption: what was read, and what limits us, while decoding; same runs. The columns:",
        "",
        *_columns(found),
        "",
        "| model | memory | side | commit | read a token | hits | of drive | of limit | other | peak "
        "| cold prefill tok/s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        best = row["peer"]["decode"]
        if best:
            first = row["peer"]["prefill_cold"]
            lines.append(
                f"| {row['model']} | {regime(row)} | {best['mode']} | | {_mb(best['read_bytes'])} | | | | | "
                f"{_mb(best['peak_bytes'])} | {'-' if first is None else format(first['tok_s'], '.1f')} |"
            )
        for name in ("lossless", "hobbit"):
            ours = row[name]
            if ours:
                share = ours["share_of_limit"]
                limit = "-" if share is None else f"{_percent(share)} ({ours['limited_by']})"
                cold = f"{ours['prefill_cold']['tok_s']:.1f}{mark(ours)}"
                lines.append(
                    f"| {row['model']} | {regime(row)} | ours, {name} | {ours['commit'] or '-'} | "
                    f"{_mb(ours['read_bytes'])} | "
                    f"{_percent(ours['hit_rate'])} | {_percent(ours['share_of_drive'])} | {limit} | "
                    f"{ours['other_percent']:.0f} % | {_mb(ours['peak_bytes'])} | {cold} |"
                )
    return [*lines, ""]


def _columns(found: Sequence[Row]) -> list[str]:
    lines = [
        "- *read a token*: bytes fetched from the drive, by the kernel's count;",
        "- *of drive*: read bandwidth while reads are under way, over the ceiling probed in the same cell;",
        "- *of limit*: the least time these misses (at the drive's ceiling) or these touched weights (at the bus's) "
        "take, over the time taken; with everything in memory the bus's ceiling is the median of the probes before all "
        "cells of the run, as single probes differ by half;",
        "- *other*: time outside trunk, experts and read wait;",
        "- *peak*: of the cgroup, page cache included;",
        "- *commit*: of ours; - where it was not recorded.",
    ]
    early = any(row[name] and row[name]["before_ready"] for row in found for name in ("lossless", "hobbit"))
    return [*lines, f"- {BEFORE_READY}: {EXPLAINED}."] if early else lines


def modes(found: Sequence[Row]) -> list[str]:
    """Return every mode of the peers that was tried, and every failure."""
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


def mark(ours: Mapping[str, Any]) -> str:
    """Return what stands behind a first prompt of ours that is none."""
    return f" {BEFORE_READY}" if ours["before_ready"] else ""


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
