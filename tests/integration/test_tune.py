"""`hobbit tune` for real, on a small bundle and a small budget: what it writes can be used, and follows from samples."""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median

import pytest

from edge_runtime.config.profiles import load_profile
from edge_runtime.lab.tune.measurement import Measurement

# all but eviction is stated, and so left alone
STATED = [
    "--io-threads",
    "4",
    "--prefetch",
    "off",
    "--direct-io",
    "--overlap",
    "--expert-memory",
    "6MiB",
    "--threads",
    "1",
]
ENGINE = ["--context", "256", "--memory", "1GiB"]


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_runtime", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def tuned(calibrated_bundle, tmp_path_factory):
    """A tuning that is killed after a few measurements, and gone on with."""
    out = tmp_path_factory.mktemp("tune") / "my.yaml"
    flags = ["tune", str(calibrated_bundle), "--out", str(out), "--rounds", "3", "--gen-tokens", "8", "--repeat", "1"]
    flags += ["--prompt-tokens", "8", "--time-budget", "1h", "--finalists", "1", *STATED, *ENGINE, "--tier", "8"]
    journal = out.with_name("my.yaml.journal")
    with subprocess.Popen([sys.executable, "-m", "edge_runtime", *flags], stderr=subprocess.PIPE, text=True) as first:
        assert first.stderr is not None
        while not (journal.exists() and journal.read_text().count("\n") >= 2):
            assert first.stderr.readline(), "it ended before it measured"
        first.kill()
    kept = journal.read_text().splitlines()
    done = run(*flags)
    assert done.returncode == 0, done.stderr
    assert "going on with" in done.stderr
    assert not journal.exists(), "it is over"
    assert not out.with_name("my.yaml.trace").exists()
    return out, json.loads(out.with_suffix(".report.json").read_text()), kept, done.stdout


def test_what_was_measured_before_the_interruption_was_not_measured_again(tuned):
    _, report, kept, _ = tuned
    assert report["baseline"] == json.loads(kept[1])["measured"]


def test_the_profile_can_be_used_and_says_where_it_is_from(tuned, calibrated_bundle):
    out, report, _, _ = tuned
    profile = load_profile(out)
    assert profile.tuned_for is not None
    assert profile.tuned_for.fingerprint == report["fingerprint"]
    assert profile.ran_on_hardware
    for name in report["best"]:
        assert profile.settings[name].basis == "measured"
        assert profile.settings[name].note
    assert profile.facts["memory_read_gb_s"].basis == "measured"
    done = run("plan", str(calibrated_bundle), "--profile", str(out), *ENGINE, "--json")
    assert done.returncode == 0, done.stderr


def test_every_figure_follows_from_samples(tuned):
    _, report, _, text = tuned
    trials = [t for t in report["trials"] if t["gain"] is not None]
    for trial in [*trials, *([report["final"]] if report["final"] else [])]:
        rounds = [Measurement.from_json(one, "x") for one in trial["measured"]]
        assert len({one.digest for one in rounds}) == 1
        assert all(one.rate == median(one.tok_s) for one in rounds)
        assert all(sum(one.phase_ms.values()) > 0 for one in rounds)
    both = [t for t in report["trials"] if t["expected_gain"] is not None and t["measured"]]
    assert len(report["prediction"]["errors"]) >= len(both) > 0
    for trial, error in zip(both, report["prediction"]["errors"], strict=False):
        rate = median(median(one["tok_s"]) for one in trial["measured"])
        assert (1 + trial["expected_gain"]) * trial["stood_tok_s"] / rate - 1 == pytest.approx(error, abs=1e-3)
    assert len(report["conditions"]["clock_samples"]) > 0
    assert {t["axis"] for t in report["trials"]} == {"eviction"}, "what the user stated is left alone"
    for trial in report["trials"]:
        assert trial["why"] or trial["is_accepted"]
        assert trial["axis"] in text


def test_a_lossy_policy_is_not_tuned(calibrated_bundle, tmp_path):
    done = run("tune", str(calibrated_bundle), "--out", str(tmp_path / "x.yaml"), "--policy", "hobbit", *ENGINE)
    assert done.returncode == 78
    assert "begins with lossless" in done.stderr


def test_a_base_needs_a_budget(calibrated_bundle, tmp_path):
    done = run("tune", str(calibrated_bundle), "--out", str(tmp_path / "x.yaml"), "--base-resident", *ENGINE)
    assert done.returncode == 78
    assert "--base-resident" in done.stderr
    assert "--max-kld" in done.stderr
