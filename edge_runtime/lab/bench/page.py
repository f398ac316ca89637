"""The report as one HTML file: what was measured when and how, the table, the charts. Nothing from outside."""

from __future__ import annotations

import html
from typing import Any

from edge_runtime.lab.bench.charts import histogram_svg, phases_svg, spreads_svg
from edge_runtime.lab.bench.distribution import histogram, spreads
from edge_runtime.lab.bench.summary import summary_line
from edge_runtime.lab.bench.table import rows
from edge_runtime.lab.bench.time_charts import power_svg, residency_svg, token_svg
from edge_runtime.lab.bench.timeline import RequestTrace

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:1.5em auto;max-width:900px;color:#222;padding:0 1em}"
    "h1{margin-bottom:.2em;font-size:1.35em;overflow-wrap:anywhere}h2{font-size:1.1em}table{border-collapse:collapse}"
    "td,th{padding:.3em .8em .3em 0;vertical-align:top;border-bottom:1px solid #ddd;text-align:left}"
    "pre{background:#f4f4f4;padding:.8em;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere}.soft{color:#666}"
    ".warn{background:#fff3cd;padding:.5em .8em;border-radius:4px}"
    ".wide{overflow-x:auto}.wide svg{min-width:720px}"
    "@media(max-width:560px){.facts td{display:block;border:0;padding:.1em 0}"
    ".facts td:last-child{border-bottom:1px solid #ddd;padding-bottom:.5em}}"
    ".facts td:first-child{font-weight:600}.facts td:last-child{color:#666}"
)
"""Of every page: charts scroll sideways on a narrow screen, and the cells of facts stack up on a telephone."""


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


def page(result: dict[str, Any], trace: RequestTrace | None = None) -> str:
    """Return the page of a result of `result_json`, with what was recorded of one token."""
    bench, title = result["bench"], html.escape(f"hobbit bench: {title_of(result)}")
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows(result))
    gaps = [gap for request in bench["gap_ms_samples"] for gap in request]
    marks = {name: bench["stats"]["itl_ms"][name] for name in ("p50", "p90", "p99")}
    warned = "".join(f'<p class="warn">{html.escape(text)}</p>' for text in bench["warnings"])
    charts = (
        (f"Gaps between tokens, {len(gaps)} of {len(bench['gap_ms_samples'])} requests",
         histogram_svg(histogram(gaps), marks)),
        ("Gaps of each request", spreads_svg(spreads(bench["gap_ms_samples"]))),
        ("Time by phase", phases_svg(bench)),
        ("One token", token_svg(trace) if trace else ""),
        ("Experts in memory", residency_svg(bench)),
        ("Power", power_svg(bench["power"], bench["requests"])),
    )  # fmt: skip
    drawn = "".join(f'<h2>{heading}</h2><div class="wide">{chart}</div>' for heading, chart in charts if chart)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>"
        f'<p class="soft">{html.escape(subtitle_of(result))}</p><pre>{html.escape(bench["command"])}</pre>{warned}'
        f'<table class="facts">{body}</table>{drawn}<pre>{html.escape(summary_line(result))}</pre>'
        "<p>All figures and raw samples: report.json. Spans of one request: trace.json, for ui.perfetto.dev.</p>"
        "</body></html>"
    )
