"""The report of `hobbit bench` on a board with a sensor: every figure computed again from its samples, by its schema."""

from __future__ import annotations

import importlib.resources
import json
import re
from statistics import median

import board_trees
import jsonschema_rs
import numpy as np
import pytest
from browser import chromium

from edge_runtime.__main__ import main
from edge_runtime.lab.bench.compare import compare, read_report
from edge_runtime.lab.bench.page import page
from edge_runtime.lab.bench.table import rows

FLAGS = ["--memory", "1GiB", "--context", "512", "--no-self-check", "--tier", "4", "--expert-memory", "3MiB"]
WORK = [
    "--prompt-tokens",
    "24",
    "--gen-tokens",
    "160",
    "--repeat",
    "3",
    "--probe-seconds",
    "0.05",
    "--idle-seconds",
    "0.2",
]
WATTS = 4.964 * 1.192


@pytest.fixture(scope="module")
def folder(model_bundle, tmp_path_factory):
    """A report on an Orin Nano; its meter is read 100 times a second, so that short requests have figures."""
    base = tmp_path_factory.mktemp("bench")
    board_trees.nano(base / "board")
    meter = ["--power", "--power-meter", f"ina:hz=100,root={base / 'board'}"]
    assert main(["bench", str(model_bundle), *FLAGS, *WORK, *meter, "--out", str(base / "a")]) == 0
    return base / "a"


@pytest.fixture(scope="module")
def report(folder):
    return json.loads((folder / "report.json").read_text())


def schema() -> dict:
    return json.loads(importlib.resources.files("edge_runtime.lab.bench").joinpath("report.schema.json").read_text())


def test_it_follows_the_published_schema(report):
    validator = jsonschema_rs.validator_for(schema())
    assert [error.message for error in validator.iter_errors(report)] == []
    for path in (("bench", "stats", "ttft_ms"), ("bench", "requests"), ("energy",), ("bench", "power", "samples")):
        broken = json.loads(json.dumps(report))
        at = broken
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]
        assert not validator.is_valid(broken), path
    unknown = json.loads(json.dumps(report))
    unknown["bench"]["requests"][0]["guess"] = 1
    assert not validator.is_valid(unknown)


def integrate(samples, start_ms, end_ms) -> float:
    """Joules between two times by trapezoids, ends interpolated: written anew, not taken from what is tested."""
    at, watts = np.array(samples).T
    grid = np.unique(np.concatenate([at[(at > start_ms) & (at < end_ms)], [start_ms, end_ms]]))
    return float(np.trapezoid(np.interp(grid, at, watts), grid) / 1000)


def test_every_figure_follows_from_samples(report):
    bench, requests = report["bench"], report["bench"]["requests"]
    gaps = bench["gap_ms_samples"]
    assert [len(each) for each in gaps] == [159] * 3
    stats = bench["stats"]
    for name, again in {
        "ttft_ms": [r["ttft_ms"] for r in requests],
        "prefill_tok_s": [1000 * r["prefill"]["tokens"] / r["prompt_ms"] for r in requests],
        "decode_tok_s": [1e9 * r["decode"]["tokens"] / r["decode"]["wall_ns"] for r in requests],
        "bytes_per_decoded_token": [r["decode"]["counters"]["bytes_read"] / r["decode"]["tokens"] for r in requests],
        "hit_rate": [r["decode"]["counters"]["hits"] / lookups(r["decode"]) for r in requests],
    }.items():
        assert stats[name]["samples"] == pytest.approx(again, rel=1e-3, abs=1e-3), name
        assert stats[name]["median"] == pytest.approx(median(again), rel=1e-3, abs=1e-3), name
    pooled = [gap for each in gaps for gap in each]
    assert stats["itl_ms"]["p99"] == pytest.approx(np.percentile(pooled, 99), abs=1e-3)
    for stage in ("prefill", "decode"):
        check_stage(bench, stage, requests)
    for request, each in zip(requests, gaps, strict=True):
        assert sum(each) == pytest.approx(request["end_ms"] - request["first_token_ms"], rel=0.02)
        assert request["ttft_ms"] == pytest.approx(request["first_token_ms"] - request["start_ms"], abs=0.01)
    assert report["timings"]["ttft_ms"] == stats["ttft_ms"]["median"]
    assert report["timings"]["itl_ms"]["p50"] == stats["itl_ms"]["p50"]
    both = [r[stage]["counters"] for r in requests for stage in ("prefill", "decode")]
    for name in ("hits", "misses", "bytes_read", "evicted"):
        assert report["experts"][name] == sum(counters[name] for counters in both), name
    assert report["memory"]["peak_rss_bytes"] == max(r["peak_rss_bytes"] for r in requests)
    speeds = [1e9 * r["decode"]["tokens"] / r["decode"]["wall_ns"] for r in bench["sentinels"]]
    assert bench["sentinel"]["decode_tok_s"] == pytest.approx(speeds, rel=1e-3)
    assert bench["sentinel"]["change_percent"] == pytest.approx(100 * (speeds[1] / speeds[0] - 1), abs=2e-3)


def lookups(stage) -> int:
    return sum(stage["counters"][name] for name in ("hits", "late", "misses"))


def check_stage(bench, stage, requests) -> None:
    found, parts = bench[stage], [r[stage] for r in requests]
    tokens = sum(part["tokens"] for part in parts)
    assert found["tokens"] == tokens
    assert found["ms"] == pytest.approx(sum(part["wall_ns"] for part in parts) / 1e6, abs=1e-3)
    for name, each in found["phase_ms_per_token"].items():
        again = sum(part["phases_ns"][name] for part in parts) / 1e6 / tokens
        assert each == pytest.approx(again, abs=1e-3), name
    busy = sum(part["counters"]["read_busy_ns"] for part in parts)
    assert found["experts"]["read_gbps"] == pytest.approx(
        sum(p["counters"]["bytes_read"] for p in parts) / busy, abs=1e-3
    )
    if found["share_of_drive"] is not None:
        again = found["experts"]["read_gbps"] / bench["drive"]["ceiling_gbps"]
        assert found["share_of_drive"] == pytest.approx(again, abs=1e-3)


def test_phases_add_up_to_the_wall_time_within_two_percent(report):
    bench = report["bench"]
    for stage in ("prefill", "decode"):
        for request in bench["requests"]:
            phases, wall = request[stage]["phases_ns"], request[stage]["wall_ns"]
            assert set(phases) == {"trunk", "experts", "read_wait", "other"}
            assert sum(phases.values()) == pytest.approx(wall, rel=0.02)
            assert sum(phases.values()) - phases["other"] <= wall, "no phase is counted twice"
            assert all(ns >= 0 for ns in phases.values())
            assert request[stage]["counters"]["bytes_read"] > 0, "experts are streamed"
        assert abs(bench[stage]["phases_over_wall_percent"]) <= 2
    # On a busy machine all reads of one prompt may have landed before they are asked for; never those of 480 tokens.
    assert sum(request["decode"]["phases_ns"]["read_wait"] for request in bench["requests"]) > 0
    recorded = bench["recorded"]
    assert set(recorded["phase_ms_per_token"]) == {
        "trunk", "experts", "routing", "policy", "cache", "sampling", "other"
    }  # fmt: skip
    assert sum(recorded["phase_ms_per_token"].values()) == pytest.approx(recorded["ms_per_token"], rel=0.02)


def test_energy_follows_from_the_readings(report):
    bench, energy = report["bench"], report["energy"]
    samples = bench["power"]["samples"]
    assert set(samples) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
    for stage, start, end in (("prefill", "start_ms", "first_token_ms"), ("decode", "first_token_ms", "end_ms")):
        for request in bench["requests"]:
            used = request["energy"][stage]
            if stage == "prefill" and used is None:
                continue  # 24 tokens may be over before three readings
            again = integrate(samples["VDD_IN"], request[start], request[end])
            assert used["joules"] == pytest.approx(again, rel=1e-3)
            assert used["joules_per_token"] == pytest.approx(again / request[stage]["tokens"], rel=1e-3)
    whole = sum(integrate(samples["VDD_IN"], r["start_ms"], r["end_ms"]) for r in bench["requests"])
    assert energy["joules"] == pytest.approx(whole, rel=1e-3)
    assert energy["joules_per_token"] == pytest.approx(whole / (3 * 160), rel=1e-3)
    assert energy["mean_w"] == pytest.approx(WATTS, rel=1e-4)
    assert energy["idle_w"] == bench["power"]["idle"]["mean_w"] == pytest.approx(WATTS, rel=1e-4)
    assert bench["requests"][0]["conditions_before"]["power_mode"] == {"number": 1, "name": "25W"}
    assert bench["requests"][0]["thermal_gate"]["hottest_c"] == 51.5


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+\.\d+", text))


def test_the_page_shows_what_the_json_holds(report, folder):
    text = (folder / "report.html").read_text()
    assert page(report) in text or numbers(page(report)) <= numbers(text), "the page follows from the JSON alone"
    shown = {row.name: f"{row.value} {row.remark}" for row in rows(report)}
    assert f"{report['bench']['decode']['energy']['joules_per_token']:.4f} J a token" in shown["decode, energy"]
    assert "25W" in shown["power mode"]
    assert "51.5 C" in shown["hottest zone"]
    assert 'name="viewport"' in text
    assert {p.name for p in folder.iterdir()} >= {"power.png", "timeline.png", "residency.png", "trace.json"}
    line = (folder / "summary.txt").read_text()
    assert f"energy_per_token_joules={report['bench']['decode']['energy']['joules_per_token']}" in line
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    assert {"trunk", "experts", "routing", "cache", "sampling", "read"} <= {event["name"] for event in events}


def test_a_report_is_within_noise_of_itself(report, folder, capsys):
    found = compare(report, read_report(folder))
    assert {row["verdict"] for row in found["metrics"]} <= {"within noise", "same"}
    assert found["differs"] == []
    assert main(["bench", "--compare", str(folder), str(folder)]) == 0
    assert "within noise" in capsys.readouterr().out
    assert main(["bench"]) == 2
    assert "bundle: expected a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_can_be_read_on_a_telephone(folder, tmp_path):
    with chromium(tmp_path / "profile") as browser:
        size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(f"file://{folder}/report.html")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        heights = browser.execute_script(
            "return [...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height)"
        )
        assert len(heights) > 40
        assert min(heights) >= 10, "as tall as letters that can be read"
        assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
