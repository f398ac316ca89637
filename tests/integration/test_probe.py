"""`hobbit probe` on a real bundle: every probe gives samples its figures follow from, or says why it has none."""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median

import pytest


@pytest.fixture(scope="module")
def report(model_bundle, tmp_path_factory):
    out = tmp_path_factory.mktemp("probe") / "probe.json"
    command = [sys.executable, "-m", "edge_runtime", "probe", str(model_bundle), "--seconds", "0.01", "--out", str(out)]
    command += ["--context", "256", "--threads", "1", "--expert-memory", "12MiB", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(out.read_text())
    return json.loads(done.stdout)


def result(report, name):
    outcome = report["probes"][name]
    if outcome["result"] is None:
        pytest.skip(f"NOT MEASURED here: {outcome['not_measured_because']}")
    return outcome["result"]


def test_every_probe_has_a_result_or_a_reason(report):
    for name, outcome in report["probes"].items():
        assert (outcome["result"] is None) == bool(outcome["not_measured_because"]), name
    assert "--sustained" in report["probes"]["drive-sustained"]["not_measured_because"]


def test_each_point_of_the_drive_was_read_from_the_drive(report):
    points = result(report, "drive")["points"]
    assert {(p["mode"], p["order"]) for p in points} >= {("direct", "random"), ("direct", "sequential")}
    assert all(p["proven_bytes"] >= 0.98 * p["read_bytes"] for p in points)


def test_kernel_figures_follow_from_samples(report):
    points = result(report, "kernels")["points"]
    assert {p["tier"] for p in points} == {2, 4, 6, 8, 16}
    for p in points:
        assert p["layer_ms"] == pytest.approx(median(p["samples_ms"]), abs=1e-6)
        assert p["gb_s"] == pytest.approx(p["nbytes"] / p["layer_ms"] / 1e6, rel=1e-3)


def test_segments_of_the_trunk_add_up(report):
    found = result(report, "trunk")
    assert found["segments"][-1]["name"] == "head"
    assert found["total_ms"] == pytest.approx(sum(s["ms"] for s in found["segments"]), abs=1e-4)


def test_phases_of_a_token_add_up_to_its_time(report):
    found = result(report, "decode")
    sums = [sum(each.values()) for each in found["rounds"]]
    assert found["token_ms"] == pytest.approx(median(sums), abs=1e-4)
    assert {"trunk", "experts", "read_wait", "other"} <= set(found["phase_ms"])


def test_overlap_is_a_share_of_each_alone(report):
    found = result(report, "overlap")
    assert found["gain"] == pytest.approx(2 * min(found["drive_kept"], found["compute_kept"]), abs=1e-3)
