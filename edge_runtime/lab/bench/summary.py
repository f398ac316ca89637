"""One line about a run, in the words of MLPerf Inference: scenario, latencies at their percentiles, energy a token.

The words are MLPerf's (time to first token, time per output token, SingleStream: one request after another); the run is
not: no LoadGen, no accuracy run, no submission.
"""

from __future__ import annotations

from typing import Any

from edge_runtime.telemetry.samples import percentiles

PREFIX = "MLPerf-style"


def summary_line(result: dict[str, Any]) -> str:
    """Return the line; what was not measured is 'none'."""
    bench = result["bench"]
    ttft = bench["stats"]["ttft_ms"]["samples"]
    p50, p99 = percentiles(ttft, (50, 99))
    itl, energy = bench["stats"]["itl_ms"], result["energy"] or {}
    decode = (bench["decode"]["energy"] or {}).get("joules_per_token")
    fields = {
        "scenario": "SingleStream",
        "model": bench["prompts"]["bundle"],
        "valid": "no" if bench["warnings"] or not bench["is_complete"] else "yes",
        "queries": len(ttft),
        "input_tokens": bench["settings"]["prompt_tokens"],
        "output_tokens": bench["settings"]["gen_tokens"],
        "cache": bench["settings"]["cache"],
        "tokens_per_second": bench["stats"]["decode_tok_s"]["median"],
        "ttft_ms_p50": p50,
        "ttft_ms_p99": p99,
        "tpot_ms_p50": itl["p50"],
        "tpot_ms_p99": itl["p99"],
        "energy_per_token_joules": decode,
        "power_mean_w": energy.get("mean_w"),
        "sampling_rate_hz": energy.get("hz"),
        "measurement_method": energy.get("method"),
    }
    return f"{PREFIX}: " + " ".join(f"{name}={_word(value)}" for name, value in fields.items())


def _word(value: Any) -> str:
    return "none" if value is None else str(value).replace(" ", "_")
