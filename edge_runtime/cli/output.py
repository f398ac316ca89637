"""What verbs print for people: the statistics table, on stderr."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from edge_runtime.base.errors import RequestError
from edge_runtime.base.sizes import format_size
from edge_runtime.bundle.sampling_defaults import SamplingDefaults
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.telemetry.report import RunReport

_MODEL_SAYS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def sampling_params(args: argparse.Namespace, model: SamplingDefaults | None = None) -> SamplingParams:
    """Build sampling parameters from the flags of `add_sampling_arguments`; what no flag says the model does.

    Raises:
        RequestError: a value is wrong.
    """
    said = {name: value for name in _MODEL_SAYS if (value := getattr(args, name)) is not None}
    return SamplingParams(
        max_tokens=args.max_tokens,
        presence_penalty=args.presence_penalty,
        frequency_penalty=args.frequency_penalty,
        logit_bias=dict(map(_bias, args.logit_bias)),
        stop=tuple(args.stop),
        ignore_eos=args.ignore_eos,
        **({} if model is None else model.given) | said,
    )


def _bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError as err:
        raise RequestError(f"logit-bias: expected a token id and a number, such as 42=-5, got {text[:60]!r}.") from err


def print_statistics(report: RunReport) -> None:
    """Print the statistics table of one run to stderr."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in statistics_rows(report):
        table.add_row(name, value)
    Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty()).print(table)


def statistics_rows(report: RunReport) -> list[tuple[str, str]]:
    """Return the table's rows: what was run, how fast, what the experts cost, and memory against the budget."""
    t, e, m = report.timings, report.experts, report.memory
    tiers = ", ".join(f"{n} at {bits} bits" for bits, n in e["by_tier"].items() if n) or "none"
    policy = report.policy["name"] + _params(report.policy["params"])
    return [
        ("prompt", f"{t['prompt_n']} tokens, {_number(t['prompt_per_second'])} tok/s"),
        (
            "generated",
            f"{t['predicted_n']} tokens, {_number(t['predicted_per_second'])} tok/s ({report.finish_reason})",
        ),
        ("first token", f"{_number(t['ttft_ms'])} ms (loading {_number(t['load_ms'])} ms)"),
        ("expert lookups", f"{e['lookups']}: {e['hits']} hit, {e['late']} late, {e['misses']} miss{_hit_rate(e)}"),
        ("bytes read", f"{format_size(e['bytes_read'])}, {format_size(e['bytes_per_token'] or 0)} a token"),
        ("read wait", f"{_number(e['stall_ms'])} ms at {_number(e['read_gbps'], 2)} GB/s"),
        ("uses by tier", tiers),
        ("policy", policy),
        *_drafts(report.speculation),
        ("changed", _losses(e)),
        ("expert cache", format_size(m["arena_bytes"])),
        ("peak memory", f"{format_size(m['peak_rss_bytes'])} of {format_size(m['budget_bytes'])} allowed"),
        *_energy(report.energy),
    ]


def _drafts(speculation: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What became of drafts; no row where none were asked for."""
    if speculation is None:
        return []
    s = speculation
    if s["off_because"]:
        return [("drafts", f"none: {s['off_because']}")]
    text = f"{s['accepted']} of {s['drafted']} tokens accepted, {s['cut']} cut, in {s['passes']} passes"
    gain = "" if s["gain"] is None else f"; {100 * s['gain']:+.1f} % of their tokens' time saved"
    return [("drafts", text + gain)]


def _energy(energy: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What was used, and by which rails; no row where nothing was measured."""
    if energy is None:
        return []
    rails = ", ".join(f"{name} {rail['mean_w']:.2f} W" for name, rail in energy["rails"].items())
    if energy["joules"] is None:
        return [("power", rails)]
    each = energy["joules_per_token"]
    per_token = "" if each is None else f", {each:.3f} J a token"
    return [("energy", f"{energy['joules']:.2f} J{per_token}, {energy['mean_w']:.2f} W ({rails})")]


def _losses(experts: dict[str, Any]) -> str:
    """What the policy changed; the contract wants every lossy action reported."""
    e = experts
    if not any((e["substituted"], e["skipped"], e["route_changed"], e["truncated"], e["fallbacks"])):
        return "nothing"
    text = (
        f"{e['substituted']} substituted, {e['skipped']} skipped, {e['route_changed']} re-routed, "
        f"{e['truncated']} planes dropped, {e['upgrades']} deepened, {e['fallbacks']} run twice"
    )
    predicted = e["predicted_kld_per_token"]
    return text if predicted is None else f"{text}; predicted KLD {predicted:.5f} a token"


def _params(params: dict[str, Any]) -> str:
    return f" ({', '.join(f'{k}={v}' for k, v in params.items())})" if params else ""


def _hit_rate(experts: dict[str, Any]) -> str:
    return f" ({100 * experts['hits'] / experts['lookups']:.1f} % hit)" if experts["lookups"] else ""


def _number(value: float | None, digits: int = 1) -> str:
    return "not measured" if value is None else f"{value:.{digits}f}"
