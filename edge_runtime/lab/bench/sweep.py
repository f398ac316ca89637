"""Runs a benchmark for every point of a sweep, each in a process of its own, and puts the reports side by side.

A process of its own, because the highest memory of a process never falls: one point's would be another's.
"""

from __future__ import annotations

import html
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.base.children import dies_with_parent, module_command
from edge_runtime.lab.bench.compare import compare, read_report
from edge_runtime.lab.bench.page import STYLE
from edge_runtime.lab.bench.points import Point, flags_of

SWEEP_JSON, SWEEP_HTML = "sweep.json", "sweep.html"
FORMAT_VERSION = 1
_SAID_BYTES = 4000


@dataclass(frozen=True)
class Done:
    """A point that was run.

    Attributes:
        values: of the point.
        folder: name of its report's folder.
        exit_code: of its process.
        said: the end of what it wrote to stderr.
        report: what it measured; None if it failed.
    """

    values: Point
    folder: str
    exit_code: int
    said: str
    report: dict[str, Any] | None


def run_point(bundle: Path, flags: Sequence[str], values: Point, out: Path, swept: Sequence[str] | None = None) -> Done:
    """Run one point and read its report.

    Args:
        bundle: of the model.
        flags: of every point.
        values: what the point is called by.
        out: folder of the sweep.
        swept: flags of this point; None: those that follow from `values`.
    """
    name = folder_name(values)
    own = flags_of(values) if swept is None else swept
    words = [*flags, *own, "--out", str(out / name), "--json"]
    done = subprocess.run(  # noqa: S603 - this program again
        module_command("edge_runtime", "bench", str(bundle), *words),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
        preexec_fn=dies_with_parent(),
    )  # fmt: skip
    said = done.stderr.decode(errors="replace")[-_SAID_BYTES:]
    report = read_report(out / name) if done.returncode == 0 else None
    return Done(values, name, done.returncode, said, report)


def folder_name(values: Point) -> str:
    """Return a name for a point's folder: `memory-1GiB,policy-lossless`."""
    return re.sub(r"[^\w.,=+-]", "_", ",".join(f"{name}-{value}" for name, value in values.items()))[:150] or "point"


def sweep_json(results: Sequence[Done], command: str, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Return all points, each but the first successful one compared with that one."""
    first = next((done for done in results if done.report is not None), None)
    rows = []
    for done in results:
        row: dict[str, Any] = {"values": done.values, "folder": done.folder, "exit_code": done.exit_code}
        if done.report is None:
            rows.append(row | {"error": done.said.strip().splitlines()[-1:], "figures": None, "compared": None})
            continue
        is_first = first is None or done is first or first.report is None
        against = None if is_first or first is None or first.report is None else compare(first.report, done.report)
        rows.append(row | {"error": None, "figures": figures(done.report), "compared": against})
    return {"format_version": FORMAT_VERSION, "command": command, "notes": [*notes], "points": rows}


def figures(report: dict[str, Any]) -> dict[str, Any]:
    """Return what a point's line shows; all of it stands in its report."""
    bench = report["bench"]
    decode = bench["decode"]["energy"] or {}
    return {
        "decode_tok_s": bench["stats"]["decode_tok_s"]["median"],
        "ttft_ms": bench["stats"]["ttft_ms"]["median"],
        "itl_p99_ms": bench["stats"]["itl_ms"]["p99"],
        "hit_rate": bench["stats"]["hit_rate"]["median"],
        "bytes_per_decoded_token": bench["stats"]["bytes_per_decoded_token"]["median"],
        "peak_rss_bytes": report["memory"]["peak_rss_bytes"],
        "joules_per_token": decode.get("joules_per_token"),
        "mean_w": decode.get("mean_w"),
        "warnings": len(bench["warnings"]),
    }


COLUMNS = (
    ("tok/s", "decode_tok_s", 1.0, 2), ("first token, ms", "ttft_ms", 1.0, 1), ("p99 gap, ms", "itl_p99_ms", 1.0, 1),
    ("hits, %", "hit_rate", 100.0, 1), ("MiB a token", "bytes_per_decoded_token", 2.0**-20, 2),
    ("peak MiB", "peak_rss_bytes", 2.0**-20, 0), ("J a token", "joules_per_token", 1.0, 3), ("W", "mean_w", 1.0, 2),
    ("warnings", "warnings", 1.0, 0),
)  # fmt: skip
"""Heading, key of `figures`, factor and decimals of each column."""


def table(sweep: dict[str, Any]) -> list[list[str]]:
    """Return the sweep as lines of cells, headings first."""
    names = list(sweep["points"][0]["values"])
    lines = [[*names, *(heading for heading, *_ in COLUMNS), "against the first"]]
    for point in sweep["points"]:
        values = [point["values"][name] for name in names]
        if point["figures"] is None:
            blank = [""] * (len(COLUMNS) - 1)
            lines.append([*values, f"failed ({point['exit_code']})", *blank, " ".join(point["error"])])
            continue
        cells = [_cell(point["figures"][key], factor, digits) for _, key, factor, digits in COLUMNS]
        lines.append([*values, *cells, _verdict(point["compared"])])
    return lines


def _cell(value: float | None, factor: float, digits: int) -> str:
    return "not measured" if value is None else f"{value * factor:.{digits}f}"


def _verdict(compared: dict[str, Any] | None) -> str:
    if compared is None:
        return ""
    row = next((row for row in compared["metrics"] if row["metric"] == "decode"), None)
    if row is None or row["change_percent"] is None:
        return "not measured"
    return f"{row['change_percent']:+.1f} % tok/s, {row['verdict']}"


def sweep_page(sweep: dict[str, Any]) -> str:
    """Return the sweep as one HTML file, with links to the reports of its points."""
    head, *rows = table(sweep)
    lines = ["<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "<th>report</th></tr>"]
    for cells, point in zip(rows, sweep["points"], strict=True):
        link = f'<a href="{html.escape(point["folder"])}/report.html">open</a>' if point["figures"] else ""
        lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + f"<td>{link}</td></tr>")
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in sweep["notes"])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>hobbit bench: sweep</title><style>{STYLE}</style></head><body><h1>hobbit bench: sweep</h1>"
        f'<pre>{html.escape(sweep["command"])}</pre>{notes}<div class="wide"><table>{"".join(lines)}</table></div>'
        "</body></html>"
    )
