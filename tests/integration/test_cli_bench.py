"""`hobbit bench` as users run it: the contract's object, the folder, and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from conftest import MODEL

from edge_runtime.__main__ import main

ENGINE = ["--memory", "1GiB", "--context", "256", "--no-self-check", "--tier", "4", "--expert-memory", "1MiB"]
SMALL = ["--prompt-tokens", "16", "--gen-tokens", "8", "--repeat", "3", "--probe-seconds", "0.05"]
FILES = {"report.json", "report.html", "report.png", "summary.txt", "trace.json", "timeline.png", "residency.png"}


def bench(capsys, *argv: str) -> dict:
    capsys.readouterr()
    assert main(["bench", *argv]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1, "one JSON object on stdout"
    return json.loads(out)


def check_sums(result: dict) -> None:
    found = result["bench"]
    experts = result["experts"]
    assert experts["lookups"] == experts["hits"] + experts["late"] + experts["misses"] > 0
    for name in ("lookups", "hits", "misses", "bytes_read"):
        assert experts[name] == found["prefill"]["experts"][name] + found["decode"]["experts"][name], name
    for stage in ("prefill", "decode"):
        assert sum(found[stage]["phase_percent"].values()) == pytest.approx(100, abs=0.1)
        milliseconds = sum(found[stage]["phase_ms_per_token"].values()) * found[stage]["tokens"]
        assert milliseconds == pytest.approx(found[stage]["ms"], rel=0.01)
        assert {"trunk", "experts", "read_wait", "other"} <= set(found[stage]["phase_ms_per_token"])


def test_the_report_of_a_warm_run(model_bundle, tmp_path):
    out = tmp_path / "report"
    words = [str(model_bundle), *ENGINE, *SMALL, "--out", str(out), "--json"]
    # in a process of its own: the peak memory of this one is that of every test before
    done = subprocess.run(
        [sys.executable, "-m", "edge_runtime", "bench", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert {p.name for p in out.iterdir()} == FILES, "no sensor here, so no plot of power"
    assert json.loads((out / "report.json").read_text()) == result
    for path in out.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert (out / "summary.txt").read_text().startswith("MLPerf-style: scenario=SingleStream ")
    page = (out / "report.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", ""), "self-contained"
    assert "<script" not in page
    when, version = result["bench"]["measured_at"], result["bench"]["versions"]["hobbit-edge"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\dZ", when)
    heading = re.search(r"<h1>(.*?)</h1>", page)[1]
    for words in (model_bundle.name, "4 bits", "lossless", "warm", when):
        assert words in heading, "two reports can be told apart"
    assert f"hobbit-edge {version}" in page
    assert f"hobbit bench {model_bundle} --memory 1GiB" in page
    assert result["bench"]["command"].endswith("--json")
    timings, found = result["timings"], result["bench"]
    assert (timings["prompt_n"], timings["predicted_n"]) == (16, 8)
    assert found["is_complete"] is True
    assert [len(gaps) for gaps in found["gap_ms_samples"]] == [7, 7, 7]
    assert found["stats"]["itl_ms"]["n"] == 21
    for name in ("ttft_ms", "prefill_tok_s", "decode_tok_s", "bytes_per_decoded_token", "hit_rate"):
        stat = found["stats"][name]
        assert stat["n"] == len(stat["samples"]) == 3, name
        assert stat["p10"] <= stat["median"] <= stat["p90"], name
    assert found["stats"]["load_ms"]["n"] == 1, "one engine"
    assert timings["ttft_ms"] == found["stats"]["ttft_ms"]["median"] > 0
    assert result["energy"] is None
    assert 0 < result["memory"]["peak_rss_bytes"] <= result["memory"]["budget_bytes"]
    assert "warm: after 1 unmeasured" in found["cache_state"]
    assert " with io_uring" in found["cache_state"] or " with threads" in found["cache_state"]
    check_sums(result)
    drive = found["drive"]
    assert (drive["ceiling_gbps"] is None) == (drive["not_measured_because"] is not None)
    for probe in drive["probes"]:
        assert probe["proven_bytes"] >= 0.98 * probe["read_bytes"] > 0


def test_a_cold_run_reads_every_expert_again(model_bundle, capsys, tmp_path):
    flags = [*ENGINE[:-2], *SMALL, "--no-png", "--json"]
    warm = bench(capsys, str(model_bundle), *flags, "--out", str(tmp_path / "warm"))
    cold = bench(capsys, str(model_bundle), *flags, "--cache", "cold", "--out", str(tmp_path / "cold"))
    assert {p.name for p in (tmp_path / "cold").iterdir()} == {path for path in FILES if not path.endswith("png")}
    reads = cold["bench"]["prefill"]["experts"]["bytes_read"]
    assert reads > warm["bench"]["prefill"]["experts"]["bytes_read"], "everything fits: a warm cache has most of it"
    assert cold["bench"]["stats"]["load_ms"]["n"] == 3
    assert len(set(cold["bench"]["stats"]["load_ms"]["samples"])) > 1, "an engine a request"
    assert cold["bench"]["cache_state"].startswith("cold")
    proof = cold["bench"]["cache_proof"]
    assert proof["is_proven"] is True
    assert proof["residents_at_start"] == [0, 0, 0]
    assert max(proof["page_cache_share"]) <= 0.01
    check_sums(cold)


def test_prompts_from_a_text_and_the_table(model_bundle, capsys, tmp_path):
    flags = ["--prompt-file", str(MODEL / "heldout_python.txt"), "--out", str(tmp_path / "r"), "--no-png"]
    assert main(["bench", str(model_bundle), *ENGINE, *SMALL, *flags]) == 0
    text = capsys.readouterr().out
    for word in ("time to first token", "inter-token latency", "hit", "read a token", "peak memory", "cache state"):
        assert word in text
    found = json.loads((tmp_path / "r" / "report.json").read_text())["bench"]["prompts"]
    assert found == {"source": "text heldout_python.txt", "distinct": 4, "requests": 4, "bundle": model_bundle.name}


def test_what_was_measured_before_an_interrupt_is_kept(model_bundle, capsys, tmp_path, monkeypatch):
    from edge_runtime.lab.bench import session

    real, calls = session.measure, []

    def measure(*args):
        calls.append(1)
        if len(calls) == 5:  # after warm-up, a sentinel and two requests
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(session, "measure", measure)
    assert main(["bench", str(model_bundle), *ENGINE, *SMALL, "--out", str(tmp_path / "r"), "--no-png"]) == 130
    found = json.loads((tmp_path / "r" / "report.json").read_text())["bench"]
    assert found["is_complete"] is False
    assert found["stats"]["ttft_ms"]["n"] == 2


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--power"], 1, "no power meter here"),
        (["--power", "--power-meter", "none"], 1, "--power-meter none was given"),
        (["--power-modes", "all"], 2, "--change-power-mode"),
        (["--sweep", "memory=1GiB,nonsense"], 78, "sweep: memory"),
        (["--gen-tokens", "1"], 2, "gen-tokens"),
        (["--prompt-tokens", "250"], 2, "--context 258"),
        (["--prompt-file", "/nonexistent"], 2, "prompt-file"),
        (["--tier", "3"], 78, "tier"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_written(
    model_bundle, capsys, tmp_path, flags, code, message
):
    out = tmp_path / "r"
    assert main(["bench", str(model_bundle), *ENGINE, *SMALL, "--out", str(out), *flags]) == code
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_an_older_report_is_never_overwritten(model_bundle, capsys, tmp_path):
    (tmp_path / "report.json").write_text("{}")
    assert main(["bench", str(model_bundle), *ENGINE, *SMALL, "--out", str(tmp_path)]) == 2
    assert "new or empty folder" in capsys.readouterr().err
    assert (tmp_path / "report.json").read_text() == "{}"


def test_without_matplotlib_the_rest_is_written_and_the_command_that_installs_it_is_named(
    model_bundle, capsys, tmp_path, monkeypatch
):
    from edge_runtime.lab.bench import plot

    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda name: None)
    out = tmp_path / "r"
    assert main(["bench", str(model_bundle), *ENGINE, *SMALL, "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {path for path in FILES if not path.endswith("png")}
    err = capsys.readouterr().err
    assert f"The PNG plots are left out: they need matplotlib. Install it: {sys.executable} -m pip install" in err
    assert "'matplotlib>=" in err
