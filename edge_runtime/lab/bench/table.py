"""The benchmark's table: rows of name, value and remark, the same on a terminal and in HTML. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from edge_runtime.base.sizes import format_size


class Row(NamedTuple):
    """One line of the table."""

    name: str
    value: str
    remark: str = ""


def rows(result: dict[str, Any]) -> list[Row]:
    """Return the table of a result of `result_json`."""
    bench = result["bench"]
    return [
        *_speed_rows(bench),
        *_expert_rows(bench),
        *_phase_rows(bench),
        *_recorded_rows(bench.get("recorded")),
        *_energy_rows(result),
        *_machine_rows(bench),
        *_surrounding_rows(result, bench),
    ]


def _speed_rows(bench: dict[str, Any]) -> list[Row]:
    stats, settings = bench["stats"], bench["settings"]
    itl = stats["itl_ms"]
    return [
        Row("time to first token", _spread(stats["ttft_ms"], "ms"), f"{settings['prompt_tokens']} prompt tokens"),
        Row("prefill", _spread(stats["prefill_tok_s"], "tok/s")),
        Row("decode", _spread(stats["decode_tok_s"], "tok/s"), f"{settings['gen_tokens'] - 1} steps a request"),
        Row(
            "inter-token latency",
            f"{_number(itl['p50'])} ms (p90 {_number(itl['p90'])}, p99 {_number(itl['p99'])}, n {itl['n']})",
        ),
        Row("loading", _spread(stats["load_ms"], "ms")),
    ]


def _expert_rows(bench: dict[str, Any]) -> list[Row]:
    found = []
    for stage in ("prefill", "decode"):
        e = bench[stage]["experts"]
        share = f" ({100 * e['hits'] / e['lookups']:.1f} % hit)" if e["lookups"] else ""
        found.append(
            Row(
                f"{stage} lookups",
                f"{e['hits']} hit, {e['late']} late, {e['misses']} miss{share}",
                f"{format_size(e['bytes_per_token'] or 0)} read a token",
            )
        )
    e, drive = bench["decode"]["experts"], bench["drive"]
    percent = bench["decode"]["share_of_drive"]
    ceiling = (
        f"not measured: {drive['not_measured_because']}"
        if drive["ceiling_gbps"] is None
        else f"ceiling {drive['ceiling_gbps']:.2f} GB/s, blocks of {format_size(drive['probes'][0]['block_bytes'])}, "
        f"{drive['probes'][0]['depth']} at once"
    )
    reached = "" if percent is None else f" ({100 * percent:.0f} % of the drive)"
    found.append(Row("decode reads at", f"{_number(e['read_gbps'], 2)} GB/s{reached}", ceiling))
    return found


def _phase_rows(bench: dict[str, Any]) -> list[Row]:
    found = []
    for stage in ("prefill", "decode"):
        each = bench[stage]
        text = ", ".join(
            f"{name.replace('_', ' ')} {_number(ms, 2)} ms ({each['phase_percent'].get(name, 0):.0f} %)"
            for name, ms in each["phase_ms_per_token"].items()
        )
        found.append(Row(f"{stage}, a token", text or "not measured"))
    return found


def _recorded_rows(recorded: dict[str, Any] | None) -> list[Row]:
    if recorded is None:
        return []
    phases = recorded["phase_ms_per_token"].items()
    text = ", ".join(f"{name.replace('_', ' ')} {ms:.3f} ms" for name, ms in phases)
    return [Row("recorded, a token", text, "one request with all spans on, not measured")]


def _energy_rows(result: dict[str, Any]) -> list[Row]:
    energy, bench = result["energy"], result["bench"]
    if energy is None:
        return [Row("energy", "not measured", _why_no_energy(bench["power"]))]
    found = []
    for stage, word in (("prefill", "a prompt token"), ("decode", "a token")):
        used = bench[stage]["energy"]
        if used is None:
            found.append(Row(f"{stage}, energy", "not measured", "too short for the meter's rate"))
            continue
        rails = ", ".join(f"{name} {rail['mean_w']:.2f} W" for name, rail in used["rails"].items())
        each = "no known total" if used["joules_per_token"] is None else f"{used['joules_per_token']:.4f} J {word}"
        found.append(Row(f"{stage}, energy", f"{each}; {rails}"))
    idle = "not measured" if energy["idle_w"] is None else f"{energy['idle_w']:.2f} W"
    return [*found, Row("idle power", idle, f"{energy['method']}, {energy['hz']:g} Hz; {energy['covers']}")]


def _why_no_energy(power: dict[str, Any]) -> str:
    if power["meter"] is None:
        return "; ".join(power["not_measured_because"].values()) or "no meter was asked for"
    return "requests are too short for the meter's rate, or readings are missing"


def _machine_rows(bench: dict[str, Any]) -> list[Row]:
    sentinel, requests = bench["sentinel"], bench["requests"]
    change = sentinel["change_percent"]
    drift = "not run" if change is None else f"{change:+.1f} % tok/s from start to end"
    found = [Row("sentinel", drift, f"steady within {sentinel['steady_within_percent']:g} %")]
    before, after = requests[0]["conditions_before"], requests[-1]["conditions_after"]
    if before and after and before["temperatures_c"] and after["temperatures_c"]:
        first, last = max(before["temperatures_c"].values()), max(after["temperatures_c"].values())
        waited = sum(r["thermal_gate"]["waited_s"] for r in requests if r["thermal_gate"])
        found.append(
            Row("hottest zone", f"{first:.1f} C at the start, {last:.1f} C at the end", f"waited {waited:.1f} s")
        )
    if before and before["power_mode"]:
        mode = before["power_mode"]
        found.append(Row("power mode", mode["name"] or str(mode["number"])))
    return found


def _surrounding_rows(result: dict[str, Any], bench: dict[str, Any]) -> list[Row]:
    memory, hardware, prompts = result["memory"], bench["hardware"], bench["prompts"]
    names = hardware["drive"]["name"], hardware["drive"]["model"], hardware["file_system"]
    distinct = f"{prompts['distinct']} distinct of {prompts['requests']}"
    return [
        Row("peak memory", f"{format_size(memory['peak_rss_bytes'])} of {format_size(memory['budget_bytes'])} allowed"),
        Row("cache state", bench["cache_state"], _proof(bench["cache_proof"])),
        Row("prompts", prompts["source"], distinct),
        Row(
            "measured on",
            f"{hardware['cpu'] or hardware['machine']}, {bench['engine']['threads']} threads, "
            f"{format_size(hardware['memory_bytes'] or 0)}",
            f"{hardware['kernel']}; drive {' '.join(filter(None, names)) or 'unknown'}",
        ),
        Row(
            "requests", f"{bench['stats']['ttft_ms']['n']} measured" + ("" if bench["is_complete"] else ", interrupted")
        ),
    ]


def _proof(proof: dict[str, Any]) -> str:
    return {True: "proven", False: "not so", None: "not proven"}[proof["is_proven"]]


def _spread(stat: dict[str, Any], unit: str) -> str:
    if stat["median"] is None:
        return "not measured"
    return f"{_number(stat['median'])} {unit} (p10 {_number(stat['p10'])}, p90 {_number(stat['p90'])}, n {stat['n']})"


def _number(value: float | None, digits: int = 1) -> str:
    return "not measured" if value is None else f"{value:.{digits}f}"
