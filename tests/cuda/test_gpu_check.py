"""`make gpu-check`, over the fake driver: it passes, finds a GPU that computes wrong, and says when there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cuda import fake_tensorrt, gpu_check
from cuda.build import Fakes
from cuda.gpu_steps import make_gpu

from edge_runtime.backends.cuda.driver import Driver
from edge_runtime.backends.cuda.tensorrt.allow_list import version_for
from edge_runtime.backends.cuda.tensorrt.library import Library
from edge_runtime.base.errors import DeviceError


def test_it_runs_every_check_and_writes_what_ran(
    fakes: Fakes, fake, model_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = ["--libcuda", str(fakes.libcuda), "--libnvrtc", str(fakes.libnvrtc), "--out", str(tmp_path), "--quick"]
    options += ["--bundle", str(model_bundle)]
    assert gpu_check.main(options) == 0
    result = json.loads((tmp_path / "gpu_check_Fake_Orin.json").read_text())
    assert result["checks"] > 20, "quick: a case of each check; the others are tests of their own"
    assert set(result["memory"]) == {"registered", "pinned", "device"}
    assert len(result["decode"]) == 3
    assert result["demo"][-1] == "resident, as a graph and without"
    assert (result["device"], result["arch"], result["driver_cuda"]) == ("Fake Orin", "sm_87", 12060)
    assert (result["emulated"], result["failed"]) == (True, None), "a fake never passes for a GPU"
    assert result["passed"] == ["self_test", "checks", "memory", "decode", "demo", "tensorrt"]
    assert result["tensorrt"]["library"] is None
    assert "TensorRT cannot be imported" in result["tensorrt"]["skipped"]
    said = capsys.readouterr().out
    assert "self-test of device-only functions: passed" in said
    assert "TensorRT: SKIPPED, no engine was built: TensorRT cannot be imported" in said


def test_engines_are_checked_where_tensorrt_is(fakes, fake, nvrtc, kernel_folder, model_bundle, monkeypatch):
    found = version_for("10.16.2.10")
    assert found is not None
    library = Library(fake_tensorrt.make_module("10.16.2.10"), found)
    monkeypatch.setattr(gpu_check, "load_library", lambda: library)
    monkeypatch.setattr(fake_tensorrt.IExecutionContext, "driver", fake, raising=False)
    open_gpu = make_gpu(lambda: Driver(fake), kernel_folder, lambda: nvrtc)
    result = gpu_check.engines(model_bundle, open_gpu)
    assert result == {"library": "tensorrt-10.16.2.10", "agreed": ["trunk as engines"]}


def test_a_failed_self_test_ends_it(fakes: Fakes, fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise DeviceError("mma_s8 gives 0x1")

    monkeypatch.setattr(gpu_check, "check_primitives", refuse)
    options = ["--libcuda", str(fakes.libcuda), "--libnvrtc", str(fakes.libnvrtc), "--out", str(tmp_path), "--quick"]
    with pytest.raises(DeviceError, match="mma_s8"):
        gpu_check.main(options)
    result = json.loads((tmp_path / "gpu_check_Fake_Orin.json").read_text())
    assert (result["passed"], result["failed"]) == ([], "self_test")
    assert result["why"] == "DeviceError: mma_s8 gives 0x1"


def test_without_a_gpu_it_says_what_is_missing(tmp_path: Path):
    program = [sys.executable, str(Path(gpu_check.__file__)), "--libcuda", str(tmp_path / "libcuda.so.1")]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0
    assert "SKIPPED, nothing was checked on a GPU: cuda: " in done.stderr
    assert "does not load" in done.stderr
