"""`hobbit doctor` on the machine that runs the tests: a real inference, and backends that fail or crash."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from board_identities import BOARDS, plant

from edge_runtime.__main__ import main
from edge_runtime.backends import BACKENDS
from edge_runtime.lab.doctor.device import Device
from edge_runtime.lab.doctor.findings import CHECKS
from edge_runtime.lab.doctor.report import diagnose
from edge_runtime.lab.doctor.runs import run_trial
from edge_runtime.lab.doctor.tiny_model import tiny_model
from edge_runtime.lab.doctor.trial import try_backend


def doctor(*words: str) -> tuple[int, dict]:
    done = subprocess.run(
        [sys.executable, "-m", "edge_runtime", "doctor", "--json", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def test_this_machine_runs_the_tiny_model():
    code, found = doctor()
    assert code == (1 if found["findings"] else 0)
    assert found["checks"] == list(CHECKS)
    assert {*found["runs"]} >= {*BACKENDS}
    cpu = found["runs"]["cpu"]
    assert (cpu["state"], cpu["tokens"]) == ("ran", 16)
    assert cpu["correlation"] >= cpu["expected_correlation"] == 0.995
    assert cpu["tok_s"] > 0
    assert all(finding["fix"] and finding["why"] for finding in found["findings"])
    assert "inference" not in [finding["check"] for finding in found["findings"]]


def test_a_bundle_is_run_instead(model_bundle):
    found = doctor(str(model_bundle))[1]
    assert found["runs"]["cpu"]["state"] == "ran"
    assert found["runs"]["cpu"]["correlation"] > 0.99


def test_a_bundle_that_is_none_is_an_error_of_the_command(tmp_path, capsys):
    assert main(["doctor", str(tmp_path)]) == 78
    assert "manifest.json" in capsys.readouterr().err


def test_what_the_memory_cannot_hold_is_a_finding(model_bundle, monkeypatch):
    monkeypatch.setenv("HOBBIT_MEMORY", "40MiB")
    code, found = doctor(str(model_bundle), "--skip", "memory-taken")
    assert code == 1
    finding = next(finding for finding in found["findings"] if finding["check"] == "inference")
    assert finding["severity"] == "error"
    assert "memory: budget 40.0 MiB is below the floor" in finding["finding"]


def test_a_damaged_model_is_a_finding():
    with tiny_model() as bundle:
        path = bundle / "trunk/layer_000.data"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(bytes(data))
        found = run_trial(bundle, "cpu", True)
    assert found["state"] == "failed"
    assert "layer_000.data" in found["why"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('echo \'{"state": "ran"}\'; kill -SEGV $$', f"it ended with code -{signal.SIGSEGV.value}"),
        ("echo Bus error >&2; exit 3", "it ended with code 3: Bus error"),
        ("echo no json", "it ended with code 0"),
    ],
)
def test_a_driver_that_crashes_is_a_finding(script, words, tmp_path, monkeypatch):
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    assert run_trial(tmp_path, "cuda", True) == {"state": "crashed", "why": words}
    found = diagnose(Device(plant(tmp_path / "root", {"proc/x": ""})), run=run_trial)
    assert {finding.finding for finding in found.findings} >= {f"cuda: a model does not run: {words}"}
    assert found.exit_code == 1


def test_a_gpu_that_cannot_be_used_is_a_finding_and_no_gpu_is_none(tmp_path):
    def run(bundle: Path, backend: str, is_tiny: bool) -> dict:
        assert is_tiny
        assert (bundle / "manifest.json").exists()
        return {"state": "missing", "why": "libcuda.so.1 does not load"}

    root = plant(tmp_path, BOARDS["orin-nx-16gb"])
    skip = list(CHECKS)
    assert diagnose(Device(root), skip=skip, run=run).findings == ()
    plant(root, {"dev/nvhost-gpu": ""})
    found = diagnose(Device(root), skip=skip, run=run).findings
    assert [(finding.check, finding.finding) for finding in found] == [
        ("gpu-unused", "cuda: libcuda.so.1 does not load")
    ]
    assert diagnose(Device(root), skip=[*skip, "gpu-unused"], run=run).findings == ()


def test_onnx_runtimes_provider_is_run_where_its_package_is(tmp_path):
    ran = []

    def run(bundle: Path, backend: str, is_tiny: bool) -> dict:
        ran.append(backend)
        return {"state": "ran"}

    package = "usr/lib/python3/dist-packages/onnxruntime_gpu-1.23.0.dist-info/METADATA"
    root = plant(tmp_path, BOARDS["orin-nx-16gb"] | {package: "Name: onnxruntime-gpu"})
    diagnose(Device.copied(root), skip=list(CHECKS), run=run)
    assert "cuda:trunk=onnx" in ran


def test_tensorrt_is_run_where_it_is_installed(tmp_path):
    ran = []

    def run(bundle: Path, backend: str, is_tiny: bool) -> dict:
        ran.append(backend)
        return {"state": "ran"}

    root = plant(tmp_path, BOARDS["orin-nx-16gb"] | {"usr/lib/aarch64-linux-gnu/libnvinfer.so.10": ""})
    diagnose(Device(root), skip=list(CHECKS), run=run)
    assert ran[:3] == ["cpu", "cuda", "cuda:trunk=tensorrt"]
    found = try_backend(tmp_path, "cuda:trunk=tensorrt", {}, {})
    assert found["state"] == "missing"
