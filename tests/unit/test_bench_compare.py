"""Reports compared: what is a change, what is noise, what else differs; and what a sweep runs."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from edge_runtime.base.errors import ConfigError, RequestError
from edge_runtime.lab.bench.compare import compare, ratio_interval, read_report
from edge_runtime.lab.bench.points import MAX_POINTS, flags_of, parse_points, split_values
from edge_runtime.lab.bench.result import FORMAT_VERSION
from edge_runtime.lab.bench.sweep import Done, folder_name, sweep_json, sweep_page, table
from edge_runtime.telemetry.samples import summary


def report(speeds, drift=0.5, energy=None, **settings):
    """What comparing and sweeping read of a report."""
    n = len(speeds)
    stats = {name: summary([100.0] * n) for name in ("ttft_ms", "prefill_tok_s", "bytes_per_decoded_token", "hit_rate")}
    stats["decode_tok_s"] = summary(speeds)
    stats["itl_ms"] = {"p50": 1.0, "p90": 1.0, "p99": 1.0, "n": n}
    each = {"prefill": None, "decode": energy and {"joules_per_token": energy, "mean_w": 5.0}}
    bench = {
        "format_version": FORMAT_VERSION, "measured_at": "now", "command": "hobbit bench", "stats": stats,
        "gap_ms_samples": [[1000 / s] * 4 for s in speeds], "warnings": [], "settings": {"repeat": n} | settings,
        "requests": [{"energy": each, "conditions_before": None}] * n, "sentinel": {"change_percent": drift},
        "prompts": {"bundle": "b"}, "engine": {"threads": 2}, "hardware": {}, "versions": {},
        "decode": {"energy": each["decode"]},
    }  # fmt: skip
    memory = {"budget_bytes": 1 << 30, "peak_rss_bytes": 5 << 20}
    return {"bench": bench, "policy": {"name": "lossless"}, "backend": "cpu", "memory": memory, "model": {}}


def verdict(found, metric="decode"):
    return next(row for row in found["metrics"] if row["metric"] == metric)


def test_a_change_beyond_noise_is_named_by_its_direction():
    slow, fast = report([10.0, 10.1, 9.9, 10.05, 9.95]), report([12.0, 12.2, 11.9, 12.1, 12.05])
    row = verdict(compare(slow, fast))
    assert row["verdict"] == "better"
    assert row["change_percent"] == pytest.approx(20.5)
    assert row["interval_percent"][0] > 15
    assert verdict(compare(fast, slow))["verdict"] == "worse"
    assert verdict(compare(slow, fast), "inter-token p50")["verdict"] == "better", "less is better here"


def test_a_change_within_the_spread_is_noise():
    a, b = report([10.0, 13.0, 9.0, 12.0, 10.5]), report([10.4, 12.6, 9.4, 12.9, 11.0])
    assert verdict(compare(a, b))["verdict"] == "within noise"
    assert verdict(compare(a, a))["change_percent"] == 0


def test_a_change_smaller_than_what_the_sentinel_moved_is_noise():
    a, b = report([10.0, 10.01, 9.99, 10.0, 10.0]), report([10.4, 10.41, 10.39, 10.4, 10.4], drift=-6.0)
    found = compare(a, b)
    assert found["sentinel_drift_percent"] == 6.0
    assert verdict(found)["verdict"] == "within noise"
    steady = copy.deepcopy(b)
    steady["bench"]["sentinel"]["change_percent"] = 1.0
    assert verdict(compare(a, steady))["verdict"] == "better"


def test_two_requests_are_too_few_to_tell():
    row = verdict(compare(report([10.0, 10.1]), report([20.0, 20.1])))
    assert row["verdict"] == "too few requests"
    assert row["interval_percent"] is None


def test_energy_is_compared_only_where_both_measured_it():
    with_meter, without = report([10.0] * 4, energy=0.5), report([10.0] * 4)
    names = {row["metric"] for row in compare(with_meter, without)["metrics"]}
    assert "energy a decoded token" not in names
    half = report([10.0] * 4, energy=0.25)
    assert verdict(compare(with_meter, half), "energy a decoded token")["verdict"] == "better"


def test_what_else_differs_is_listed():
    a, b = report([10.0] * 3), report([10.0] * 3, gen_tokens=64)
    b["bench"]["engine"] = {"threads": 4}
    assert compare(a, b)["differs"] == [
        {"what": "settings.gen_tokens", "a": None, "b": 64}, {"what": "engine.threads", "a": 2, "b": 4},
    ]  # fmt: skip


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(100):
        low, high = ratio_interval(random.normal(100, 5, 15), random.normal(110, 5, 15))
        covered += low <= 10 <= high
    assert covered >= 85


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("{", "expected a report"),
        ("[]", "expected a report"),
        ('{"bench":' + "[" * 200_000, "expected a report"),
        ('{"bench": {"format_version": 1}}', f"expected a report of format {FORMAT_VERSION}, got 1"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(RequestError, match=message):
        read_report(tmp_path)


def test_an_incomplete_report_is_refused(tmp_path):
    good, bad = report([10.0] * 3), report([10.0] * 3)
    del bad["bench"]["requests"]
    (tmp_path / "report.json").write_text(json.dumps(bad))
    with pytest.raises(RequestError, match="incomplete"):
        compare(good, read_report(tmp_path))
    for wrong in ("much", ["x"], 10**400):
        bad = report([10.0] * 3)
        bad["bench"]["sentinel"]["change_percent"] = wrong
        with pytest.raises(RequestError, match="damaged"):
            compare(good, bad)


def test_a_sweep_is_every_combination_and_values_keep_their_parameters():
    points = parse_points(["memory=1GiB,2GiB", "policy=lossless,hobbit:t1=0.6,t2=0.9"])
    assert points == [
        {"memory": "1GiB", "policy": "lossless"}, {"memory": "1GiB", "policy": "hobbit:t1=0.6,t2=0.9"},
        {"memory": "2GiB", "policy": "lossless"}, {"memory": "2GiB", "policy": "hobbit:t1=0.6,t2=0.9"},
    ]  # fmt: skip
    assert split_values("auto:hz=5,root=/x,none") == ["auto:hz=5,root=/x", "none"]
    assert flags_of({"io-threads": "4", "direct-io": "off", "cache": "cold"}) == [
        "--io-threads", "4", "--no-direct-io", "--cache", "cold",
    ]  # fmt: skip
    assert parse_points([]) == [{}]


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        (["BUNDLE"], RequestError, "Write the bundle before --sweep"),
        (["memmory=1GiB"], RequestError, "Did you mean 'memory'"),
        (["memory=1GiB,banana"], ConfigError, "sweep: memory"),
        (["memory=1GiB,,2GiB"], RequestError, "different values"),
        (["memory=1GiB,1GiB"], RequestError, "different values"),
        (["memory=1GiB", "memory=2GiB"], RequestError, "given twice"),
        ([f"threads={','.join(map(str, range(1, MAX_POINTS + 2)))}"], RequestError, "combinations"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(items, error, message):
    with pytest.raises(error, match=message):
        parse_points(items)


def test_points_are_put_side_by_side_with_those_that_failed():
    done = [
        Done({"memory": "1GiB"}, "memory-1GiB", 0, "", report([10.0, 10.1, 9.9])),
        Done({"memory": "1MiB"}, "memory-1MiB", 78, "noise\nhobbit: it does not fit <b>", None),
        Done({"memory": "2GiB"}, "memory-2GiB", 0, "", report([20.0, 20.1, 19.9], energy=0.4)),
    ]
    sweep = sweep_json(done, "hobbit bench b --sweep", ["a note"])
    head, first, failed, last = table(sweep)
    assert head[0] == "memory"
    assert first[:2] == ["1GiB", "10.00"]
    assert "not measured" in first
    assert failed[1] == "failed (78)"
    assert failed[-1] == "hobbit: it does not fit <b>"
    assert last[-1] == "+100.0 % tok/s, better"
    assert {len(row) for row in (head, first, failed, last)} == {len(head)}
    page = sweep_page(sweep)
    assert "it does not fit &lt;b&gt;" in page
    assert 'href="memory-2GiB/report.html"' in page
    assert "a note" in page
    json.dumps(sweep)


def test_folder_names_are_plain():
    assert folder_name({"policy": "hobbit:t1=0.6", "memory": "1GiB"}) == "policy-hobbit_t1=0.6,memory-1GiB"
    assert folder_name({"profile": "../../etc"}) == "profile-.._.._etc"
    assert len(folder_name({"x": "y" * 500})) <= 150
