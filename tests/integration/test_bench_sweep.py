"""`hobbit bench --sweep` and `--power-modes` as users run them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import board_trees
import pytest
from nvpmodel_script import install, mode_of
from patience import until

from edge_runtime.__main__ import main

FLAGS = ["--memory", "1GiB", "--context", "128", "--no-self-check", "--tier", "4", "--expert-memory", "1MiB"]
SMALL = ["--prompt-tokens", "8", "--gen-tokens", "6", "--repeat", "1", "--probe-seconds", "0", "--warmup", "0"]
QUICK = [*SMALL, "--no-png", "--no-sentinel", "--trace-tokens", "0", "--idle-seconds", "0"]


def test_every_point_has_a_report_and_one_that_fails_is_a_line(model_bundle, tmp_path, capsys):
    out = tmp_path / "sweep"
    flags = [*QUICK, "--sweep", "memory=1GiB,1MiB", "--out", str(out), "--json"]
    assert main(["bench", str(model_bundle), *FLAGS[2:], *flags]) == 0
    sweep = json.loads(capsys.readouterr().out)
    good, bad = sweep["points"]
    assert good["values"] == {"memory": "1GiB"}
    assert good["figures"]["decode_tok_s"] > 0
    report = json.loads((out / good["folder"] / "report.json").read_text())
    assert report["memory"]["budget_bytes"] == 1 << 30
    assert report["bench"]["engine"]["context"] == 128, "flags of the sweep hold for every point"
    assert good["figures"]["decode_tok_s"] == report["bench"]["stats"]["decode_tok_s"]["median"]
    assert (bad["exit_code"], bad["figures"]) == (78, None)
    assert "budget" in " ".join(bad["error"]) or "memory" in " ".join(bad["error"])
    assert {path.name for path in out.iterdir()} >= {"sweep.json", "sweep.html", good["folder"]}
    assert json.loads((out / "sweep.json").read_text()) == sweep


@pytest.fixture
def board(tmp_path, monkeypatch):
    board_trees.nano(tmp_path / "root")
    install(tmp_path / "bin", tmp_path / "root")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "root"


def test_a_board_is_measured_in_its_modes_and_left_as_it_was(model_bundle, board, tmp_path, capsys):
    out = tmp_path / "modes"
    meter = ["--power-meter", f"ina:hz=100,root={board}"]
    flags = [*QUICK, "--power-modes", "0,2", "--change-power-mode", *meter, "--out", str(out), "--json"]
    assert main(["bench", str(model_bundle), *FLAGS, *flags]) == 0
    said = capsys.readouterr()
    sweep = json.loads(said.out)
    (point,) = sweep["points"]
    assert point["values"] == {"power-mode": "15W"}
    report = json.loads((out / point["folder"] / "report.json").read_text())
    assert report["bench"]["requests"][0]["conditions_before"]["power_mode"] == {"number": 0, "name": "15W"}
    assert "MAXN_SUPER" in sweep["notes"][0]
    assert "may need a reboot" in said.err
    assert mode_of(board) == "pmode:0001"


def test_a_sweep_killed_in_mid_run_leaves_the_mode_it_found(model_bundle, board, tmp_path):
    flags = [*QUICK, "--power-modes", "0", "--change-power-mode", "--power-meter", f"ina:root={board}"]
    command = [sys.executable, "-m", "edge_runtime", "bench", str(model_bundle), *FLAGS, *flags]
    with subprocess.Popen([*command, "--out", str(tmp_path / "out")], stderr=subprocess.DEVNULL) as bench:
        until(lambda: mode_of(board) == "pmode:0000", "the sweep changes the mode", patience_s=300)
        bench.send_signal(signal.SIGKILL)
    until(lambda: mode_of(board) == "pmode:0001", "the guard sets it back")
