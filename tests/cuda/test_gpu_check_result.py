"""What `make gpu-check` leaves where something fails: the checks that failed by name, and what the rest gave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from cuda import gpu_check, gpu_result
from cuda import test_expert_kernels as experts
from cuda.bench import TIERS, Bench
from cuda.build import Fakes
from cuda.gpu_failures import ChecksFailed, Failures
from cuda.gpu_result import MOST_LISTED, NotedCompiler, Parts, describe, result_path
from cuda.kernel_checks import expert_checks, name_of

from edge_runtime.backends.cuda.driver import Device, Driver
from edge_runtime.base.errors import DeviceError

PARTS = ["self_test", "memory", "checks", "demo", "decode", "graphs", "tensorrt", "onnx"]
WRONG = ("hb_recur_mamba2", "hb_gate_norm")
PLANTED = f"""
import sys
sys.modules["pytest"] = None  # a device has none, and none rewrites what is asserted
from edge_runtime.backends.cuda.driver import Kernel
start = Kernel.start
Kernel.start = lambda self, *given: None if self.name in {WRONG} else start(self, *given)
from cuda import gpu_check
sys.exit(gpu_check.main(sys.argv[1:]))
"""


def written(folder: Path) -> dict[str, Any]:
    """The one result file in a folder."""
    (path,) = folder.glob("gpu_check_*.json")
    return dict(json.loads(path.read_text()))


def options(fakes: Fakes, folder: Path) -> list[str]:
    return ["--libcuda", str(fakes.libcuda), "--libnvrtc", str(fakes.libnvrtc), "--out", str(folder)]


def test_wrong_kernels_are_named_and_what_is_behind_them_runs(fakes: Fakes, model_bundle: Path, tmp_path: Path):
    """Kernels of layers the demo has none of, as the one of a Mamba that is wrong on some GPU."""
    command = [sys.executable, "-c", PLANTED, *options(fakes, tmp_path), "--bundle", str(model_bundle)]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1, done.stderr[-2000:]
    result = written(tmp_path)
    assert result["failed"] == ["checks"]
    recurrence, gates = result["why"]["checks"]
    assert recurrence.startswith("recurrences_and_their_states(rule=mamba2, sizes=(4, 2, 16, 40)): AssertionError: ")
    assert "test_state_kernels.py:" in recurrence, "where it stands, for it has no words"
    assert gates.startswith("gates_and_norms_behind_a_recurrence(norm_first=False, is_silu=True, groups=3, width=40): ")
    assert result["checks"] > 20, "the others passed"
    assert [*result["passed"], *result["skipped"]] == [part for part in PARTS if part != "checks"]
    assert set(result["graphs"]) == {"graph", "single_launches"}
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("gpu-check: FAILED: checks: recurrences_and_their_states(")
    assert "gates_and_norms_behind_a_recurrence(" in last


def test_a_failed_self_test_does_not_hide_what_kernels_do(fakes: Fakes, fake, tmp_path: Path, monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise DeviceError("mma_s8 gives 0x1")

    monkeypatch.setattr(gpu_check, "check_primitives", refuse)
    assert gpu_check.main(options(fakes, tmp_path)) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == "gpu-check: FAILED: self_test: DeviceError: mma_s8 gives 0x1"
    result = written(tmp_path)
    assert (result["failed"], result["why"]) == (["self_test"], {"self_test": ["DeviceError: mma_s8 gives 0x1"]})
    assert result["passed"] == ["memory", "checks", "decode"]


def test_nothing_runs_behind_a_context_that_was_lost(fakes: Fakes, fake, tmp_path: Path, monkeypatch, capsys):
    ran = []

    def wrong(bench: Bench) -> None:
        raise AssertionError("a sum")

    def lose(bench: Bench) -> None:
        fake.fake_fail(b"cuStreamSynchronize", 700, 0)
        bench.stream.synchronize()

    monkeypatch.setattr(gpu_check, "checks", lambda **_: [wrong, lose, ran.append])
    assert gpu_check.main(options(fakes, tmp_path)) == 1
    result = written(tmp_path)
    assert ran == []
    assert (result["failed"], result["not_run"]) == (["checks"], ["decode"])
    first, last = result["why"]["checks"]
    assert first == "wrong(): AssertionError: a sum"
    assert last.startswith("lose(): CudaContextLostError: cuda: cuStreamSynchronize failed")
    assert "decode: NOT RUN, the GPU cannot be used any more" in capsys.readouterr().out


@pytest.mark.parametrize("call", [b"cuLaunchKernel", b"cuEventSynchronize"])
def test_a_context_lost_on_a_kind_of_memory_ends_it_too(fakes: Fakes, fake, tmp_path: Path, monkeypatch, call: bytes):
    """The error that says which kind is raised from the driver's."""
    real = gpu_check.memory_kinds

    def lose(*given: Any) -> dict[str, Any]:
        fake.fake_fail(call, 700, 0)
        return real(*given)

    monkeypatch.setattr(gpu_check, "memory_kinds", lose)
    assert gpu_check.main(options(fakes, tmp_path)) == 1
    result = written(tmp_path)
    assert (result["failed"], result["not_run"]) == (["memory"], ["checks", "decode"])
    assert result["why"]["memory"][0].startswith("DeviceError: cuda: the GPU failed on registered memory: ")


def test_a_way_of_the_demo_that_lost_the_context_is_the_last(fake, device: Device, tmp_path: Path):
    """A backend that is opened says which memory it was on."""
    parts, failures = Parts(tmp_path / "gpu_check_GPU.json", {}), Failures()

    def demo() -> None:
        with failures.kept("streamed"):
            fake.fake_fail(b"cuCtxSynchronize", 700, 0)
            try:
                device.call("cuCtxSynchronize")
            except DeviceError as err:
                raise DeviceError("on pinned memory") from err
        pytest.fail("another way ran")

    parts.run("demo", demo)
    parts.run("graphs", pytest.fail)
    result = written(tmp_path)
    assert (result["why"], result["not_run"]) == ({"demo": ["streamed: DeviceError: on pinned memory"]}, ["graphs"])


def test_a_way_of_the_demo_that_fails_is_named(tmp_path: Path):
    parts, failures = Parts(tmp_path / "gpu_check_GPU.json", {}), Failures()
    for number in range(MOST_LISTED + 2):
        with failures.kept(f"way {number}"):
            assert number < 0
    with failures.kept("a way that works"):
        pass
    found = parts.run("demo", lambda: failures.finish(["a way that works"]))
    assert found == ["a way that works"], "what the others gave"
    *listed, last = written(tmp_path)["why"]["demo"]
    assert (len(listed), last) == (MOST_LISTED, "and 2 more")
    assert listed[0].startswith("way 0: AssertionError: ")
    with pytest.raises(KeyboardInterrupt):
        parts.run("graphs", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert written(tmp_path)["failed"] == ["demo", "graphs"], "also what somebody stopped"
    with pytest.raises(ChecksFailed, match="way 0: "):
        failures.finish()


def test_the_file_names_the_board_and_each_board_has_its_own(fakes, device: Device, tmp_path: Path, monkeypatch):
    board, tool = "NVIDIA Jetson Orin NX Engineering Reference Developer Kit", tmp_path / "nvpmodel"
    for name, text in {
        "proc/device-tree/model": f"{board}\0",
        "proc/meminfo": "MemTotal: 16000000 kB\n",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    tool.write_text('#!/bin/sh\nprintf "NV Fan Mode:quiet\\nNV Power Mode: MAXN_SUPER\\n2\\n"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    compiler = NotedCompiler(str(fakes.libnvrtc))
    assert describe(device, compiler)["compiler"] == "kept cubin", "as long as nothing was compiled"
    version = ".".join(map(str, compiler().version))
    found = describe(device, compiler, tmp_path)
    assert (found["board"], found["memory_bytes"]) == (board, 16000000 << 10)
    assert (found["jetson_linux"], found["power_mode"]) == ("36.4.3", "MAXN_SUPER")
    assert found["compiler"] == f"NVRTC {version}"
    assert (found["multiprocessors"], found["gpu_memory_bytes"]) == (device.multiprocessors, device.total_bytes)
    path = result_path(tmp_path, found)
    assert path.name == f"gpu_check_Fake_Orin_{board.replace(' ', '_')}.json"
    assert result_path(tmp_path, found | {"board": "NVIDIA Jetson AGX Orin Developer Kit"}) != path
    assert result_path(tmp_path, found | {"board": None}).name == "gpu_check_Fake_Orin.json"


def test_kept_kernels_are_checked_where_nothing_compiles(fakes: Fakes, fake, nvrtc, tmp_path: Path, monkeypatch):
    """As docs/cuda.md says a board may be: kernels compiled elsewhere, and no NVRTC."""
    monkeypatch.setattr(gpu_result, "cache_folder", lambda: tmp_path / "kept")
    monkeypatch.setattr(gpu_check, "checks", lambda **_: [])
    given = [*options(fakes, tmp_path), "--libnvrtc", str(tmp_path / "none")]
    assert gpu_check.main(given) == gpu_check.NOT_RUN
    gpu_check.make_gpu(lambda: Driver(fake), tmp_path / "kept", lambda: nvrtc)(0).close()
    assert gpu_check.main(given) == 0
    assert written(tmp_path)["compiler"] == "kept cubin"
    assert gpu_check.main(options(fakes, tmp_path)) == 0
    assert written(tmp_path)["compiler"].startswith("NVRTC "), "compiled anew where that can be"


def test_experts_of_every_form_are_checked_at_every_tier():
    """The page has a row for them."""
    names = [name_of(check) for check in expert_checks()]
    for form, tier in product(experts.VARIANTS, TIERS):
        assert f"every_form_of_expert_agrees_with_the_reference(name={form}, tier={tier})" in names
    for tier, codes in experts.CODES:
        assert sum(name.endswith(f"tier={tier}, codes={codes}, seed=1)") for name in names) > 1
    for form, tier in product(experts.FLOAT4_FORMS, experts.FLOAT4_TIERS):
        assert any(name.endswith(f"tier={tier}, form={form})") for name in names)
