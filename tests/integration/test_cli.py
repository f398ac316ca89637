"""The commands as users run them: output contract, exit codes, environment twins, chat, eval, plan."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest
from conftest import MODEL
from outside import run_measured

from edge_runtime.__main__ import main

ENGINE = ["--memory", "1GiB", "--context", "256", "--no-self-check"]

CONTRACT = {
    "": {"text", "token_ids", "finish_reason", "model", "policy", "backend", "timings", "experts", "memory", "energy"},
    "model": {"family", "num_layers", "num_experts", "top_k"},
    "policy": {"name", "params"},
    "timings": {"load_ms", "prompt_n", "prompt_ms", "prompt_per_second", "predicted_n", "predicted_ms",
                "predicted_per_second", "ttft_ms", "itl_ms"},
    "experts": {"lookups", "hits", "late", "misses", "bytes_read", "bytes_per_token", "stall_ms", "read_gbps", "by_tier",
                "substituted", "skipped", "route_changed", "prefetch", "evicted", "truncated"},
    "memory": {"budget_bytes", "planned_bytes", "peak_rss_bytes", "arena_bytes", "trunk_bytes", "kv_bytes"},
}  # fmt: skip


def run_json(capsys, *argv: str) -> dict:
    capsys.readouterr()
    assert main(list(argv)) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1, "one JSON object on stdout"
    return json.loads(out)


def test_run_json_is_the_contract(model_bundle, capsys):
    report = run_json(
        capsys, "run", str(model_bundle), *ENGINE, "--prompt", "def main(", "-n", "6", "--tier", "4",
        "--expert-memory", "1MiB", "--json", "--ignore-eos",
    )  # fmt: skip
    for key, expected in CONTRACT.items():
        assert expected <= set(report[key] if key else report), key
    experts, timings = report["experts"], report["timings"]
    assert experts["lookups"] == experts["hits"] + experts["late"] + experts["misses"] > 0
    assert set(experts["by_tier"]) >= {"2", "4", "6", "8"}
    assert experts["by_tier"]["4"] > 0 == experts["by_tier"]["8"]
    counted, judged = {"issued", "used", "late", "wasted"}, {"is_on", "saved_ms_per_token", "switches"}
    assert set(experts["prefetch"]) == counted | judged, "lossless looks ahead, and says whether it pays"
    assert set(timings["itl_ms"]) == {"p50", "p90", "p99"}
    assert len(report["token_ids"]) == timings["predicted_n"] == 6
    assert report["finish_reason"] == "length"
    assert report["energy"] is None
    assert report["policy"]["name"] == "lossless"
    assert report["backend"] == "cpu"
    assert report["model"] == {"family": "qwen3_moe", "num_layers": 8, "num_experts": 32, "top_k": 4}
    assert experts["bytes_read"] > 0 < experts["evicted"]


def test_text_goes_to_stdout_and_statistics_to_stderr(model_bundle):
    command = [
        sys.executable,
        "-m",
        "edge_runtime",
        "run",
        str(model_bundle),
        *ENGINE,
        "--prompt",
        "import os",
        "-n",
        "8",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip()
    assert "tok/s" not in done.stdout
    for word in ("tok/s", "hit", "miss", "peak memory", "bytes read"):
        assert word in done.stderr
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout == done.stdout


def test_flags_beat_the_environment(model_bundle, capsys, monkeypatch):
    monkeypatch.setenv("HOBBIT_TIER", "2")
    common = ["run", str(model_bundle), *ENGINE, "-p", "x = ", "-n", "2", "--json"]
    assert run_json(capsys, *common)["experts"]["by_tier"]["2"] > 0
    assert run_json(capsys, *common, "--tier", "6")["experts"]["by_tier"]["6"] > 0
    monkeypatch.setenv("HOBBIT_TIER", "5")
    assert main(common) == 78
    assert "HOBBIT_TIER" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--tier", "3"], 78, "tier"),
        (["--memory", "lots"], 78, "memory"),
        (["--policy", "lossles"], 78, "Did you mean 'lossless'"),
        (["--profile", "orin-nano"], 78, "Did you mean 'orin-nano-8gb'"),
        (["--backend", "cuda"], 1, "CUDA"),
        (["--max-kld", "0.1"], 78, "max-kld"),
        (["--threads", "0"], 78, "threads"),
        (["--eviction", "fifo"], 78, "eviction"),
        (["--temperature", "-1"], 2, "temperature"),
        (["--context", "1000000"], 78, "context"),
    ],
)
def test_bad_settings_are_named_with_their_exit_code(model_bundle, capsys, flags, code, message):
    assert main(["run", str(model_bundle), *ENGINE, "-p", "x", "-n", "1", *flags]) == code
    err = capsys.readouterr().err
    assert message.lower() in err.lower()
    assert "Traceback" not in err


def test_usage_errors_exit_with_2(capsys):
    for argv in ([], ["run"], ["walk"], ["run", "x", "--nothing"]):
        try:
            code = main(argv)
        except SystemExit as err:
            code = err.code
        assert code == 2
    capsys.readouterr()


def test_plan_adds_up(model_bundle, capsys):
    plan = run_json(capsys, "plan", str(model_bundle), *ENGINE[:-1], "--json")
    assert sum(line["bytes"] for line in plan["lines"]) == plan["planned_bytes"] <= plan["budget_bytes"]
    assert main(["plan", str(model_bundle), *ENGINE[:-1]]) == 0
    text = capsys.readouterr().out
    for word in ("trunk", "KV", "expert", "planned"):
        assert word.lower() in text.lower()


def test_plan_estimates_the_speed_and_says_what_it_assumes(model_bundle, capsys):
    whole = run_json(capsys, "plan", str(model_bundle), *ENGINE[:-1], "--tier", "4", "--json")["speed"]
    assert (whole["assumed_hit_rate"], whole["missed_bytes_per_token"], whole["drive_ms_per_token"]) == (1, 0, 0)
    part = ["plan", str(model_bundle), *ENGINE[:-1], "--tier", "4", "--expert-memory", "2MiB"]
    found = run_json(capsys, *part, "--json", "--drive-gbps", "0.5", "--memory-gbps", "10")
    speed, uses = found["speed"], found["working_set_slots"] * found["slot_bytes"]
    assert speed["missed_bytes_per_token"] == pytest.approx(uses * (1 - found["cache_share"]) ** 1.6, rel=1e-3)
    assert speed["drive_ms_per_token"] == pytest.approx(speed["missed_bytes_per_token"] / 0.5e6, rel=1e-3)
    parts = sum(speed[f"{name}_ms_per_token"] for name in ("drive", "compute", "other"))
    assert speed["tok_s_at_most"] == pytest.approx(1000 / parts, rel=1e-3)
    assert speed["touched_bytes_per_token"] > uses
    assert main([*part, "--drive-gbps", "0.5"]) == 0
    text = capsys.readouterr().out
    for words in ("speed: at most", "at 0.5 GB/s", "drive rate from --drive-gbps", "memory rate assumed", "tok/s"):
        assert words in text
    assert "--memory auto" not in text
    assert " 0 B" not in text
    assert main(["plan", str(model_bundle), "--context", "256"]) == 0
    assert "--memory auto takes the tightest of" in capsys.readouterr().out
    assert main([*part, "--drive-gbps", "0.5", "--profile", "orin-nano-8gb"]) == 0
    assert "memory rate from profile orin-nano-8gb, assumed" in capsys.readouterr().out
    for rate in ("0", "-1", "nan"):
        assert main([*part, "--drive-gbps", rate]) == 78
        assert "drive-gbps: expected a rate above 0" in capsys.readouterr().err


def test_eval_and_verify_say_what_their_figures_mean(model_bundle, capsys):
    text = str(MODEL / "heldout_python.txt")
    assert main(["eval", str(model_bundle), *ENGINE, "--text", text, "--tokens", "24", "--tier", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"lossless against lossless at bf16, 24 tokens of {text}"
    assert any(line.split()[:2] == ["KL", "divergence"] and "nats a token away" in line for line in lines)
    assert any(line.split()[:2] == ["changed", "nothing"] for line in lines)
    assert main(["verify", str(model_bundle), "--memory", "1GiB", "--context", "128", "--tier", "8"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("ok ")
    assert "every byte is as it was exported" in out
    assert "correlate 0.99" in out or "correlate 1.00" in out
    assert "{" not in out
    assert main(["verify", str(model_bundle), "--structure-only"]) == 0
    assert "self-check  skipped" in capsys.readouterr().out


def test_eval_of_the_baseline_itself_is_exact_and_lower_tiers_are_worse(model_bundle, capsys):
    common = [
        "eval",
        str(model_bundle),
        *ENGINE,
        "--text",
        str(MODEL / "heldout_python.txt"),
        "--tokens",
        "48",
        "--json",
    ]
    same = run_json(capsys, *common, "--tier", "bf16")["quality"]
    assert same["kld_mean"] == 0
    assert same["top1_agreement"] == 1
    low = run_json(capsys, *common, "--tier", "2")
    high = run_json(capsys, *common, "--tier", "8")
    assert 0 < high["quality"]["kld_mean"] < low["quality"]["kld_mean"]
    assert set(same) >= {"ppl", "kld_mean", "kld_median", "kld_p99", "top1_agreement"}
    assert high["timings"]["predicted_n"] == 48


def test_eval_reports_tasks_and_the_predicted_loss(calibrated_bundle, capsys):
    flags = [*ENGINE, "--tokens", "224", "--tier", "4", "--baseline-tier", "4", "--expert-memory", "2MiB", "--json"]
    text = ["--text", str(MODEL / "heldout_python.txt"), "--python", "3"]
    exact = run_json(capsys, "eval", str(calibrated_bundle), *flags, *text)
    tasks = exact["quality"]["tasks"]
    assert tasks["identifiers"]["items"] > 5
    assert tasks["python"]["items"] == 3
    for task in tasks.values():
        assert task["correct"] == task["baseline_correct"], "the same tokens give the same answers"
    assert exact["experts"]["predicted_kld_per_token"] is None, "lossless does not predict: null, not 0"
    lossy = run_json(capsys, "eval", str(calibrated_bundle), *flags, *text, "--max-kld", "0.02")
    assert lossy["policy"]["name"] == "rate-distortion"
    experts, quality = lossy["experts"], lossy["quality"]
    assert experts["substituted"] > 0 < experts["skipped"]
    assert experts["bytes_read"] < 0.5 * exact["experts"]["bytes_read"]
    # what was predicted is what is measured, within a factor of two on a text of 224 tokens
    assert 0.5 < experts["predicted_kld_per_token"] / quality["kld_mean"] < 2
    free = run_json(capsys, "eval", str(calibrated_bundle), *flags, *text, "--max-kld", "0")
    assert free["quality"]["kld_mean"] == 0
    assert free["experts"]["bytes_read"] == exact["experts"]["bytes_read"]


def test_rate_distortion_needs_a_calibrated_bundle(model_bundle, capsys):
    assert main(["run", str(model_bundle), *ENGINE, "-p", "x", "-n", "1", "--max-kld", "0.01"]) == 78
    assert "--calibrate" in capsys.readouterr().err


def test_eval_walks_texts_longer_than_the_context(model_bundle, capsys):
    flags = ["--memory", "1GiB", "--context", "32", "--no-self-check", "--tokens", "70", "--json", "--tier", "8"]
    quality = run_json(capsys, "eval", str(model_bundle), *flags, "--text", str(MODEL / "heldout_prose.txt"))["quality"]
    assert quality["tokens"] == 70


def test_chat_keeps_the_conversation(model_bundle, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n/stats\nAnd then?\n/reset\nHello\n/exit\nnever\n"))
    assert main(["chat", str(model_bundle), *ENGINE, "-n", "5", "--tier", "4"]) == 0
    answers = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert len(answers) >= 2
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nAgain\n"))
    assert main(["chat", str(model_bundle), *ENGINE, "-n", "5", "--tier", "4", "--json"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["timings"]["cached_n"] == 0
    assert second["timings"]["cached_n"] > 0, "the second turn must reuse the first one's KV cache"


def test_verify_passes_and_says_how_close(model_bundle, capsys):
    result = run_json(
        capsys, "verify", str(model_bundle), "--memory", "1GiB", "--context", "128", "--json", "--tier", "bf16"
    )
    assert result["self_check"]["correlation"] > 0.9999
    assert result["parts"] > 20


def test_stop_strings_and_prompts_from_files(model_bundle, tmp_path, capsys):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("import os\nimport ")
    common = ["run", str(model_bundle), *ENGINE, "-f", str(prompt), "-n", "24", "--json", "--tier", "8"]
    text = run_json(capsys, *common)["text"]
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    report = run_json(capsys, *common, "--stop", stop)
    assert report["finish_reason"] == "stop"
    assert report["text"] == text[: text.index(stop)]
    assert main(["run", str(model_bundle), *ENGINE, "-f", str(tmp_path / "none")]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_prompt_longer_than_the_context_is_refused(model_bundle, capsys):
    flags = ["--memory", "1GiB", "--context", "16", "--no-self-check"]
    assert main(["run", str(model_bundle), *flags, "-p", "word " * 50, "-n", "1"]) == 2
    assert "exceed the context of 16" in capsys.readouterr().err


def test_chat_survives_an_answer_that_does_not_fit(model_bundle, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"Hello\n{'word ' * 200}\nAgain\n"))
    flags = ["--memory", "1GiB", "--context", "96", "--no-self-check"]
    assert main(["chat", str(model_bundle), *flags, "-n", "5", "--tier", "4", "--json"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2, "the first and the third message are answered"
    assert "exceed the context of 96" in captured.err
    assert "larger --context" in captured.err


@pytest.mark.parametrize("verb", [["run", "-p", "-"], ["chat"]])
def test_closed_standard_input_is_an_empty_one(model_bundle, verb):
    command = [sys.executable, "-m", "edge_runtime", verb[0], str(model_bundle), *ENGINE, *verb[1:]]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *command], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 2), done.stderr
    assert "Traceback" not in done.stderr


def test_a_huge_prompt_is_refused_within_the_budget(model_bundle, tmp_path):
    prompt = tmp_path / "huge.txt"
    prompt.write_text((MODEL / "heldout_python.txt").read_text() * 200)
    command = [sys.executable, "-m", "edge_runtime", "run", str(model_bundle), "--memory", "200MiB", "--context", "512"]
    done, peak = run_measured([*command, "-f", str(prompt), "-n", "3", "--no-self-check"])
    assert done.returncode == 2
    assert "exceed the context of 512" in done.stderr
    assert 0 < peak < 200 << 20


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("verb", ["run", "chat"])
def test_a_terminal_that_is_not_utf8_gets_the_whole_answer(model_bundle, verb, encoding):
    more = ["--prompt", "caf\u00e9 \u4e16", "--echo"] if verb == "run" else []
    done = subprocess.run(
        [sys.executable, "-m", "edge_runtime", verb, str(model_bundle), "--memory", "1GiB", "--context", "128", "-n", "4", *more],
        env=os.environ | {"PYTHONIOENCODING": encoding}, input=b"caf\xc3\xa9\n" if verb == "chat" else b"", capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    if verb == "run":
        assert b"?" in done.stdout
