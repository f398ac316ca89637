"""`make gpu-check`, over the fake driver: it passes, finds a GPU that computes wrong, and says when there is none."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import gpu_check_time
import numpy as np
import pytest
from cuda import fake_tensorrt, gpu_check, gpu_demo, gpu_steps
from cuda.build import Fakes
from cuda.engines import ALL, FEW, opened, tokens
from cuda.fake_provider import FakeOnnxRuntime
from cuda.gpu_demo import demo, make_gpu
from cuda.gpu_failures import ChecksFailed
from cuda.gpu_steps import memory_kinds

from edge_runtime.backends.cuda.blocks import KINDS
from edge_runtime.backends.cuda.driver import Driver
from edge_runtime.backends.cuda.tensorrt.allow_list import version_for
from edge_runtime.backends.cuda.tensorrt.library import Library
from edge_runtime.cli import bringup


def written(folder: Path) -> dict[str, Any]:
    """The one result file in a folder."""
    (path,) = folder.glob("gpu_check_Fake_Orin*.json")
    return dict(json.loads(path.read_text()))


def test_it_runs_every_check_and_writes_what_ran(
    fakes: Fakes, fake, model_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = ["--libcuda", str(fakes.libcuda), "--libnvrtc", str(fakes.libnvrtc), "--out", str(tmp_path), "--quick"]
    options += ["--bundle", str(model_bundle)]
    assert gpu_check.main(options) == 0
    result = written(tmp_path)
    assert result["checks"] > 20, "quick: a case of each check; the others are tests of their own"
    assert set(result["memory"]["kinds"]) == {"registered", "pinned", "device"}
    assert result["memory"]["chosen"] == "registered"
    assert all(each["gb_s"] == pytest.approx(100, rel=1e-3) for each in result["memory"]["kinds"].values()), (
        "the fake driver's clock"
    )
    assert len(result["decode"]) == 3
    assert result["demo"] == [*(f"streamed through {kind} memory" for kind in KINDS), "resident"]
    assert set(result["graphs"]) == {"graph", "single_launches"}
    assert all(0 < each["waits_a_token"] < 8 for each in result["graphs"].values()), "less than layers of the demo"
    assert result["decode"]["Mixtral-8x7B"].items() >= {"goal": 0.7, "met": None}.items(), "small sizes meet no goal"
    assert (result["device"], result["arch"], result["driver_cuda"]) == ("Fake Orin", "sm_87", 12060)
    assert (result["emulated"], result["failed"]) == (True, []), "a fake never passes for a GPU"
    assert {"commit", "changed"} <= result.keys()
    assert result["passed"] == ["self_test", "memory", "checks", "demo", "decode", "graphs"]
    assert result["skipped"] == ["tensorrt", "onnx"], "what was not run has not passed"
    assert result["tensorrt"]["library"] is None
    assert "TensorRT cannot be imported" in result["tensorrt"]["skipped"]
    assert "was built without its CUDA provider" in result["onnx"]["skipped"]
    said = capsys.readouterr().out
    assert "self-test of device-only functions: passed" in said
    assert "TensorRT: SKIPPED, no engine was built: TensorRT cannot be imported" in said


@pytest.mark.parametrize(("share", "met"), [(0.71, True), (0.69, False), (None, None)])
def test_a_goal_that_is_missed_is_a_result(share: float | None, met: bool | None, monkeypatch):
    monkeypatch.setattr(gpu_steps, "layer_ms", lambda *_: (10**9 if share is None else int(share * 10**9), 10.0))
    found = gpu_steps.decode_products(None, None if share is None else 100.0)  # type: ignore[arg-type]
    assert found["Mixtral-8x7B"].items() >= {"goal": 0.7, "met": met}.items()
    assert "goal" not in found["gpt-oss-20b"]


def test_a_host_that_waits_for_layers_fails_it(fake, nvrtc, kernel_folder, model_bundle, monkeypatch):
    """Not every expert is in memory: each layer is the host's."""
    monkeypatch.setattr(gpu_demo, "make_all_resident", lambda engine: None)
    monkeypatch.setattr(gpu_demo, "ALL", FEW)
    with pytest.raises(
        AssertionError, match=r"graph: AssertionError: the host waits [\d.]+ times a token, for 8 layers"
    ):
        gpu_demo.graphs(model_bundle, make_gpu(lambda: Driver(fake), kernel_folder, lambda: nvrtc), 3)


def test_engines_are_checked_where_tensorrt_is(fakes, fake, nvrtc, kernel_folder, model_bundle, monkeypatch):
    found = version_for("10.16.2.10")
    assert found is not None
    library = Library(fake_tensorrt.make_module("10.16.2.10"), found)
    monkeypatch.setattr(gpu_check, "load_library", lambda: library)
    monkeypatch.setattr(fake_tensorrt.IExecutionContext, "driver", fake, raising=False)
    open_gpu = make_gpu(lambda: Driver(fake), kernel_folder, lambda: nvrtc)
    result = gpu_check.engines(model_bundle, open_gpu)
    assert result == {"library": "tensorrt-10.16.2.10", "agreed": ["trunk as engines"]}


def test_onnx_runtimes_provider_is_checked_where_it_works(fake, nvrtc, kernel_folder, model_bundle):
    open_gpu = make_gpu(lambda: Driver(fake), kernel_folder, lambda: nvrtc)
    result = gpu_check.on_provider(model_bundle, open_gpu, FakeOnnxRuntime)
    assert (result["library"], result["agreed"]) == ("onnxruntime-cuda-1.99.0", ["trunk on ONNX Runtime"])


def test_memory_that_reads_cannot_land_in_is_left_out(
    fake, nvrtc, no_reads_into_memory_of_drivers, kernel_folder, model_bundle: Path, tmp_path: Path
):
    open_gpu = make_gpu(lambda: Driver(fake), tmp_path, lambda: nvrtc)
    gpu = open_gpu(0)
    found = memory_kinds(gpu, quick=True)
    gpu.close()
    refused = "the drive cannot read into it past the page cache (Bad address)"
    assert (found["kinds"]["pinned"]["problem"], found["chosen"]) == (refused, "device")
    ways = demo(model_bundle, open_gpu, {kind: each["problem"] for kind, each in found["kinds"].items()})
    assert list(islice(ways, 3)) == [
        f"registered memory left out: {refused}", f"pinned memory left out: {refused}", "streamed through device memory",
    ]  # fmt: skip
    ways.close()


def test_kinds_of_memory_that_give_other_bits_fail_it(fake, nvrtc, kernel_folder, model_bundle: Path, monkeypatch):
    """Close to the CPU, each of them, and not the same."""

    def differ(engine) -> np.ndarray:
        found = of_engine(engine)
        return np.nextafter(found, np.inf) if engine.parts.cache.space.kind == "pinned" else found

    of_engine = gpu_demo.logits
    monkeypatch.setattr(gpu_demo, "of_cpu", lambda bundle: (want, said))
    with opened(model_bundle, "cpu", ALL) as engine:
        want, said = of_engine(engine), tokens(engine)
    monkeypatch.setattr(gpu_demo, "logits", differ)
    ways, agreed = demo(model_bundle, make_gpu(lambda: Driver(fake), kernel_folder, lambda: nvrtc), {}), []
    with pytest.raises(ChecksFailed) as caught:
        agreed.extend(ways)
    said = "AssertionError: other bits than streamed through registered memory"
    assert caught.value.failed[0] == f"streamed through pinned memory: {said}"
    assert agreed == ["streamed through registered memory", "resident"]


def test_memory_that_gives_other_numbers_fails_it(fake, nvrtc, tmp_path: Path):
    fake.fake_stale(2)
    gpu = make_gpu(lambda: Driver(fake), tmp_path, lambda: nvrtc)(0)
    with pytest.raises(ChecksFailed, match="registered memory: AssertionError: one expert computed from it") as caught:
        gpu_check.memory(gpu, quick=True)
    assert set(caught.value.found["kinds"]) == set(KINDS), "with what came of the others"
    gpu.close()


def test_the_file_says_which_tree_was_checked(tmp_path: Path):
    if shutil.which("git") is None:
        pytest.skip("no git: the commit of a result was NOT looked up")
    assert gpu_check.source_tree(tmp_path) == {"commit": None, "changed": None}, "no repository"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "source.py").write_text("1")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    found = gpu_check.source_tree(tmp_path)
    assert (len(found["commit"]), found["changed"]) == (12, False)
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    (tmp_path / "benchmarks/results/gpu_check_GPU.json").write_text("{}")
    assert gpu_check.source_tree(tmp_path) == found, "results are no sources"
    (tmp_path / "notes.txt").write_text("1")
    assert gpu_check.source_tree(tmp_path)["changed"], "it may be a source"
    assert not gpu_check.source_tree(tmp_path, new_files=False)["changed"]
    (tmp_path / "notes.txt").unlink()
    (tmp_path / "source.py").write_text("2")
    assert gpu_check.source_tree(tmp_path) == found | {"changed": True}


def test_what_a_bring_up_leaves_in_a_checkout_is_no_change(tmp_path: Path):
    """It runs gpu-check from within its folder, which by default lies in the checkout."""
    if shutil.which("git") is None:
        pytest.skip("no git: the commit of a result was NOT looked up")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    shutil.copy(gpu_check.ROOT / ".gitignore", tmp_path)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    parser = argparse.ArgumentParser()
    bringup.add_arguments(parser)
    folder = tmp_path / parser.parse_args([]).out
    folder.mkdir()
    (folder / "hobbit-bringup.json").write_text("{}")
    assert gpu_check.source_tree(tmp_path)["changed"] is False


def test_the_page_says_what_was_counted_and_that_is_within_what_is_meant():
    result = json.loads(gpu_check_time.RESULT.read_text(encoding="utf-8"))
    assert gpu_check_time.main(["--check"]) == 0, "run python tools/gpu_check_time.py"
    assert f"counted\n{result['date']} at {result['commit']}.\n" in gpu_check_time.PAGE.read_text(encoding="utf-8")
    assert set(result["estimate_s"]) == set(gpu_check_time.PARTS)
    assert gpu_check_time.total(result) == pytest.approx(sum(result["estimate_s"].values()))
    assert gpu_check_time.total(result) <= gpu_check_time.MOST_S
    assert result["compile"]["seconds"], "compiled by the real NVRTC"


def test_a_folder_that_cannot_be_written_is_named_before_anything_runs(fakes: Fakes, fake, tmp_path: Path, capsys):
    (tmp_path / "file").touch()
    options = ["--libcuda", str(fakes.libcuda), "--libnvrtc", str(fakes.libnvrtc), "--out", str(tmp_path / "file")]
    assert gpu_check.main(options) == 1
    assert "cannot be written: File exists. Name another folder with --out" in capsys.readouterr().err


def test_without_a_gpu_it_says_what_is_missing(tmp_path: Path):
    program = [sys.executable, str(Path(gpu_check.__file__)), "--libcuda", str(tmp_path / "libcuda.so.1")]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == gpu_check.NOT_RUN
    assert "SKIPPED, nothing was checked on a GPU: cuda: " in done.stderr
    assert "does not load" in done.stderr


def test_it_needs_no_library_of_the_tests(fakes: Fakes, tmp_path: Path):
    """A device has what the runtime needs, and no pytest."""
    run = "import sys; sys.modules['pytest'] = None; from cuda import gpu_check; sys.exit(gpu_check.main(sys.argv[1:]))"
    given = ["--libcuda", str(fakes.libcuda), "--libnvrtc", str(fakes.libnvrtc), "--out", str(tmp_path)]
    given += ["--bundle", str(tmp_path / "none")]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", run, *given], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = written(tmp_path)
    assert result["passed"] == ["self_test", "memory", "checks", "decode"]
    assert result["quick"], "over a fake, whatever was asked"
    assert result["skipped"] == ["demo"]
    assert result["demo"] == {"skipped": "none is no bundle: export the demo first"}
