"""The report as one HTML file: what was measured when and how, the table, the charts. Nothing from outside."""

from __future__ import annotations

import html
from typing import Any

from edge_runtime.lab.bench.charts import histogram_svg, phases_svg, spreads_svg
from edge_runtime.lab.bench.distribution import histogram, spreads
from edge_runtime.lab.bench.table import rows

_STYLE = (
    "body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;max-width:900px;color:#222;padding:0 1em}"
    "h1{margin-bottom:.2em}table{border-collapse:collapse}"
    "td{padding:.25em .9em .25em 0;vertical-align:top;border-bottom:1px solid #ddd}td:first-child{font-weight:600}"
    "td:last-child{color:#666}pre{background:#f4f4f4;padding:.8em;overflow:auto;white-space:pre-wrap}.soft{color:#666}"
)


def title_of(result: dict[str, Any]) -> str:
    """Return what tells one report from another: bundle, tier, policy, cache, and when."""
    bench = result["bench"]
    tier = "bf16" if bench["engine"]["tier"] == 16 else f"{bench['engine']['tier']} bits"
    policy = result["policy"]["name"] + "".join(f" {k}={v}" for k, v in result["policy"]["params"].items())
    return f"{bench['prompts']['bundle']}, {tier}, {policy}, {bench['settings']['cache']}, {bench['measured_at']}"


def subtitle_of(result: dict[str, Any]) -> str:
    """Return what measured it, and on what."""
    bench = result["bench"]
    versions = ", ".join(f"{name} {version}" for name, version in bench["versions"].items())
    return f"{bench['hardware']['cpu'] or bench['hardware']['machine']}; {versions}"


def page(result: dict[str, Any]) -> str:
    """Return the page of a result of `result_json`."""
    bench, title = result["bench"], html.escape(f"hobbit bench: {title_of(result)}")
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows(result))
    gaps = [gap for request in bench["gap_ms_samples"] for gap in request]
    marks = {name: bench["stats"]["itl_ms"][name] for name in ("p50", "p90", "p99")}
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f'<p class="soft">{html.escape(subtitle_of(result))}</p><pre>{html.escape(bench["command"])}</pre>'
        f"<table>{body}</table>"
        f"<h2>Gaps between tokens, {len(gaps)} of {len(bench['gap_ms_samples'])} requests</h2>"
        f"{histogram_svg(histogram(gaps), marks)}"
        f"<h2>Gaps of each request</h2>{spreads_svg(spreads(bench['gap_ms_samples']))}"
        f"<h2>Time by phase</h2>{phases_svg(bench)}"
        "<p>All figures and raw samples: report.json.</p></body></html>"
    )
