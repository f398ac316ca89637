"""`benchmarks/bench_turns.py` and `policy_turns.py` on a real bundle, with few tokens."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from benchmarks import bench_turns, policy_turns
from benchmarks.compare.group import MemoryGroup
from benchmarks.source import commit


@pytest.fixture
def stream(tmp_path):
    path = tmp_path / "stream.json"
    path.write_text(json.dumps([7 * i % 251 for i in range(400)]))
    return ["--tokens", str(path)]


@pytest.mark.cgroup
def test_a_conversation_in_two_checkouts(model_bundle, stream, tmp_path, monkeypatch, capsys):
    try:
        with MemoryGroup(None):
            pass
    except SystemExit as err:
        pytest.skip(f"NO MEMORY CGROUP: turns were not run here ({err})")
    monkeypatch.setattr(bench_turns, "drop_caches", lambda: None)  # it would slow every other test of this machine
    python = tmp_path / "before/.venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    out = tmp_path / "turns.json"
    flags = ["--cap", "512MiB", "--other", str(tmp_path / "before"), "--rounds", "2", "--turns", "3", "--context", "64"]
    flags += ["--prompt-tokens", "20", "--gen-tokens", "6", "--first-tokens", "2", "--threads", "1", "--out", str(out)]
    assert bench_turns.main([str(model_bundle), *stream, *flags]) == 0
    said = json.loads(out.read_text())
    assert [(run["round"], run["side"]) for run in said["runs"]] == [
        (0, "this"),
        (0, "other"),
        (1, "other"),
        (1, "this"),
    ]
    assert said["runs"][0]["commit"] == commit()
    assert said["settings"]["cap_bytes"] == 512 << 20
    for run in said["runs"]:
        assert [t["prompt_tokens"] for t in run["turns"]] == [20, 46, 20], "the third would not fit: a new conversation"
        assert [t["goes_on"] for t in run["turns"]] == [False, True, False]
        assert run["budget_bytes"] <= 512 << 20
        for each in run["turns"]:
            assert len(each["gap_ms"]) == 5
            assert each["total_ms"] >= each["ttft_ms"] + sum(each["gap_ms"]) - 1
            looked_up = {stage: sum(c[k] for k in ("hits", "late", "misses")) for stage, c in each["counts"].items()}
            # 8 layers, top-4, a pass each; a prompt asks for an expert once, however many tokens share it
            assert (looked_up["first"], looked_up["rest"]) == (2 * 32, 3 * 32)
            assert looked_up["prompt"] > 32
    assert set(said["summary"]) == {"this", "other", "this_over_other"}
    assert "round 1 other (None)" in capsys.readouterr().out


def policies(bundle, flags, tmp_path, monkeypatch) -> dict[str, Any]:
    """What one round of policies in turn writes, beside a made-up drive."""
    monkeypatch.setattr(policy_turns, "drive_gbps", lambda engine, seed: 2.0)
    out = tmp_path / "policies.json"
    assert policy_turns.main([str(bundle), *flags, "--rounds", "1", "--threads", "1", "--out", str(out)]) == 0
    return dict(json.loads(out.read_text()))


def test_policies_take_turns(calibrated_bundle, stream, tmp_path, monkeypatch):
    flags = ["--turns", "2", "--turn-tokens", "3", "--warm-tokens", "4", "--prompt-tokens", "12", "--share", "0.7"]
    said = policies(calibrated_bundle, [*stream, *flags], tmp_path, monkeypatch)
    assert [(line["tier"], line["setting"]) for line in said["table"]] == [
        (each.tier, each.name) for each in policy_turns.SETTINGS
    ]
    assert said["commit"] == commit()
    for row in said["rows"]:
        assert [each["n"] for each in row["turns"]] == [3, 3]
        assert row["first_prompt"]["n"] == row["later_prompt"]["n"] == 12
        assert row["num_slots"] >= 256 * 0.7 - 1
    by_name = {(line["tier"], line["setting"]): line for line in said["table"]}
    assert by_name[8, "lossless"]["over_lossless"] == 1
    assert all(line["tok_s"] > 0 for line in said["table"])
    assert all(line["second_passes"] == 0 for line in said["table"] if line["setting"] != "mobile")


def test_what_a_bundle_cannot_run_is_left_out_and_said(model_bundle, stream, tmp_path, monkeypatch, capsys):
    """Without a calibration there are neither HOBBIT's thresholds nor losses for a base."""
    flags = ["--turns", "1", "--turn-tokens", "2", "--warm-tokens", "2", "--prompt-tokens", "8", "--tier", "8"]
    said = policies(model_bundle, [*stream, *flags], tmp_path, monkeypatch)
    assert set(said["left_out"]) == {"8 bits, hobbit 8/2", "8 bits, base-resident"}
    assert [line["setting"] for line in said["table"]] == ["lossless"]
    assert "left out: 8 bits, base-resident: policy 'rate-distortion'" in capsys.readouterr().out
