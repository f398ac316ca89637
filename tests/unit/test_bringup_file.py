"""The file of `hobbit bringup`: written whole or not at all, nothing private in it, and taken over within bounds."""

from __future__ import annotations

import errno
import getpass
import json
import os
import runpy
import socket
from pathlib import Path
from typing import Any

import pytest
from bringups import Recorder, bring_up, content, python, run

from edge_runtime.base.errors import ConfigError, RequestError
from edge_runtime.lab.bringup.bringup import Bringup
from edge_runtime.lab.bringup.privacy import Scrubber
from edge_runtime.lab.bringup.steps import Step


def test_a_file_of_something_else_is_left_alone(tmp_path: Path):
    odd = {"format": 1, "steps": {"doctor": {"outcome": "failed", "times_ended": "many"}}}
    for text in ("[1]", json.dumps(odd)):
        (tmp_path / "hobbit-bringup.json").write_text(text)
        with pytest.raises(ConfigError, match="expected the file of a bring-up"):
            bring_up(Bringup(None, tmp_path), Recorder())
        assert (tmp_path / "hobbit-bringup.json").read_text() == text


def test_a_drive_that_is_full_is_named_and_what_is_known_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bring_up(Bringup(None, tmp_path), Recorder())
    before = content(tmp_path)

    def full(source: Any, target: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RequestError, match=r"bringup\.json: cannot be written: No space left on device\. Free space"):
        bring_up(Bringup(None, tmp_path, again=("all",)), Recorder())
    assert content(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["hobbit-bringup.json"]


def test_a_folder_that_takes_nothing_is_named(tmp_path: Path):
    with pytest.raises(RequestError, match="gone: cannot hold what a step prints: No such file or directory"):
        run(python("print(1)"), tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="file/out: cannot be made: Not a directory. Name another one"):
        bring_up(Bringup(None, tmp_path / "file/out"), Recorder())


def test_a_result_of_gpu_check_that_was_cut_short_is_left_out(tmp_path: Path):
    assert kept_of_gpu_check(tmp_path, '{"device": "Or') is None


def test_what_gpu_check_wrote_is_in_the_file(tmp_path: Path):
    found = kept_of_gpu_check(tmp_path, '{"device": "Orin", "emulated": false}')
    assert found == {"device": "Orin", "emulated": False}


def kept_of_gpu_check(tmp_path: Path, written: str) -> Any:
    def check(step: Step, out: Path, environment: Any, seconds: float) -> dict[str, Any]:
        if step.name == "gpu-check":
            (out / step.folder).mkdir()
            (out / step.folder / "gpu_check_Orin.json").write_text(written)
        return {"outcome": "passed"}

    Bringup(None, tmp_path).run(lambda step, result: None, lambda step: None, check)
    return content(tmp_path)["gpu_check"]


def test_nothing_private_is_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "annas-orin.example.org")
    monkeypatch.setattr(getpass, "getuser", lambda: "anna")
    home, root = tmp_path / "home/anna", tmp_path / "root"
    monkeypatch.setenv("HOME", str(home))
    for name, text in {
        "proc/device-tree/serial-number": "1423021012345\0",
        "etc/machine-id": "b3c1d2aa5c7e4c0f8e7c6f00aa11bb22\n",
        "sys/class/net/eth0/address": "48:b0:2d:aa:bb:cc\n",
        "proc/net/fib_trie": "Main:\n  |-- 192.168.7.23\n     /32 host LOCAL\n  |-- 127.0.0.1\n     /32 host LOCAL\n",
        "proc/net/if_inet6": "fe8000000000000002e04cfffe680001 02 40 20 80 eth0\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    scrubber = Scrubber({"BUNDLE": home / "models/secret"}, root)
    said = {
        "stderr": f"anna@annas-orin: {home}/models/secret/trunk and {home}/x: serial 1423021012345, 48:B0:2D:aa:bb:cc",
        "list": ["192.168.7.23", "fe80::2e0:4cff:fe68:1", "id b3c1d2aa5c7e4c0f8e7c6f00aa11bb22"],
        "text": "what the model said", "token_ids": [1], "deep": {f"{home}": "annas-orin.example.org"},
    }  # fmt: skip
    found = scrubber.value(said)
    assert found["stderr"] == "<user>@<host>: <BUNDLE>/trunk and <HOME>/x: serial <serial>, <address>"
    assert found["list"] == ["<address>", "<address>", "id <serial>"]
    assert found["deep"] == {"<HOME>": "<host>"}
    assert found.keys() == {"stderr", "list", "deep"}
    assert scrubber.text("TensorRT 10.3.0.30, savanna, 127.0.0.1") == "TensorRT 10.3.0.30, savanna, 127.0.0.1"


def test_paths_of_a_run_are_replaced_in_its_file(tmp_path: Path):
    bring_up(Bringup(None, tmp_path / "out"), Recorder())
    assert content(tmp_path / "out")["steps"]["doctor"]["stderr"] == "in <OUT>/x"
    assert str(tmp_path) not in json.dumps(content(tmp_path / "out"))


def test_what_an_owner_sent_is_taken_over_within_bounds(tmp_path: Path):
    tool = runpy.run_path(str(Path(__file__).parents[2] / "tools/bringup_import.py"))
    check = {"device": "Orin", "arch": "sm_87", "driver_cuda": 12060, "emulated": False, "date": "2026-12-01"}
    deep = {"a": {"b": {"c": {"d": {"e": 1}}}}}
    check |= {"passed": ["self_test"] * 99, "skipped": ["onnx"], "seconds": 7.5, "graphs": deep, "not_run": []}
    check |= {"board": "NVIDIA Jetson Orin Nano", "cpu": "ARM", "memory_bytes": 8 << 30, "kernel": "Linux 5.15"}
    check |= {"jetson_linux": "36.4.3", "power_mode": "MAXN | SUPER", "compiler": "NVRTC 12.6", "quick": False}
    check |= {"multiprocessors": 8, "gpu_memory_bytes": 8 << 30, "checks": 121}
    check |= {"failed": ["checks"], "why": {"checks": ["norm(width=96): AssertionError: | 1"], "<b>": ["x"]}}
    check |= {
        "memory": {"kinds": {"device": {"gb_s": 88.5, "problem": "<b>"}}, "chosen": "device", "nan": float("nan")}
    }
    product = {"gb_s": 50, "of_measured": None, "goal": 0.7, "met": False}
    check |= {"decode": {f"model |{i}": product for i in range(99)}}
    check |= {"commit": "0123456789ab", "changed": True, "demo": ["resident", "pinned memory left out: | no"]}
    speeds = {"predicted_per_second": 7.5, "prompt_per_second": "| **fast**"}
    printed = {"timings": speeds, "choices": {"trunk": "native"}}
    step = {"outcome": "passed", "ended": "2026-12-01 10:00:00Z", "why": "<b>|x" * 99, "json": printed}
    about = {"version": "1", "commit": "ba9876543210", "changed": False}
    sent = {"format": 1, "about": about, "machine": {"hardware": {"board": "NVIDIA Jetson Orin Nano"}}}
    file = tmp_path / "sent.json"
    file.write_text(json.dumps(sent | {"steps": {"bench cpu": step}, "gpu_check": check}))
    assert tool["main"]([str(file), "--out", str(tmp_path / "results")]) == 0
    kept = json.loads((tmp_path / "results/NVIDIA-Jetson-Orin-Nano-2026-12-01.json").read_text())
    assert kept["steps"]["bench cpu"]["predicted_per_second"] == 7.5
    assert "prompt_per_second" not in kept["steps"]["bench cpu"]
    assert kept["steps"]["bench cpu"]["trunk"] == "native"
    assert len(kept["steps"]["bench cpu"]["why"]) == 200
    assert "|" not in kept["steps"]["bench cpu"]["why"]
    assert (kept["commit"], kept["changed"]) == ("ba9876543210", False)
    found = kept["gpu_check"]
    assert found.keys() == set(check) - {"graphs"}, "numbers alone, and no deeper than they lie"
    assert (len(found["passed"]), found["skipped"], found["seconds"]) == (16, ["onnx"], 7.5)
    assert found["memory"] == {"kinds": {"device": {"gb_s": 88.5}}}
    assert len(found["decode"]) == 16
    assert found["decode"]["model  3"] == {"gb_s": 50, "goal": 0.7, "met": False}
    assert (found["commit"], found["changed"]) == ("0123456789ab", True)
    assert found["demo"] == ["resident", "pinned memory left out:   no"]
    assert (found["power_mode"], found["multiprocessors"], found["checks"]) == ("MAXN   SUPER", 8, 121)
    assert (found["failed"], found["why"]) == (["checks"], {"checks": ["norm(width=96): AssertionError:   1"]})
    for name in ("board", "power_mode", "quick", "why", "not_run"):
        del check[name]  # as a checkout of before wrote it
    file.write_text(json.dumps(sent | {"steps": {}, "gpu_check": check | {"failed": "checks", "compiler": None}}))
    assert tool["read"](file)["gpu_check"].items() >= {"failed": ["checks"], "why": {}}.items()
    for broken in ("[]", "{}", '{"format": 2}', json.dumps(sent | {"steps": {"a": 1}, "gpu_check": None})):
        file.write_text(broken)
        assert tool["main"]([str(file), "--out", str(tmp_path / "results")]) == 1
