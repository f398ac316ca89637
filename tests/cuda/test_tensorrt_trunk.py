"""The trunk as TensorRT engines, over fakes of the driver and of TensorRT: the CPU backend's logits."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import MODEL
from cuda import fake_tensorrt
from cuda.engines import ALL, FEW, assert_close, logits, make_all_resident, opened, tokens
from cuda.fake_tensorrt import RELEASES, TENSORRT
from families import make_checkpoint

from edge_runtime import Engine, SamplingParams
from edge_runtime.__main__ import main
from edge_runtime.backends.cuda.tensorrt.library import load_library
from edge_runtime.backends.cuda.trunk import supported as kernels
from edge_runtime.base.errors import BundleError, ConfigError, DeviceError, RequestError
from edge_runtime.lab.bringup.steps import HOBBIT, steps_of


@pytest.fixture(scope="module")
def of_cpu(model_bundle: Path) -> tuple[np.ndarray, list[int]]:
    with opened(model_bundle, "cpu", ALL) as engine:
        return logits(engine), tokens(engine)


@pytest.mark.parametrize("version", RELEASES)
def test_tokens_are_the_cpu_backends(model_bundle, of_cpu, use_version, fake: ctypes.CDLL, version: str):
    use_version(version)
    before, runs = fake.fake_live_regions(), fake_tensorrt.IExecutionContext.runs
    with opened(model_bundle, TENSORRT, FEW) as engine:
        assert engine.parts.backend.trunk[:2] == ("tensorrt", "asked for")
        first = logits(engine)
        assert_close(first, of_cpu[0])
        assert tokens(engine) == of_cpu[1]
        report = engine.generate([1, 2], SamplingParams(max_tokens=1)).to_json()
        assert (report["choices"]["trunk"], report["choices"]["memory"]) == ("tensorrt", "registered")
        assert report["choices"].keys() == {"memory", "memory_probe", "memory_reason", "trunk", "trunk_reason"}
        assert f"-tensorrt-{version}-" in engine.parts.backend.fingerprint
        taken = engine.parts.backend.gpu.device.taken
        assert taken.bytes > fake.fake_held_bytes(1), "with what TensorRT takes by itself"
    assert fake_tensorrt.IExecutionContext.runs > runs
    assert taken.bytes == 0
    assert fake.fake_live_regions() == before, "all memory was given back"


def test_experts_are_routed_on_the_device_beside_engines(model_bundle, of_cpu, use_version):
    with opened(model_bundle, TENSORRT, ALL) as engine:
        make_all_resident(engine)
        assert_close(logits(engine), of_cpu[0])


def test_the_bring_ups_benchmark_runs_over_engines(model_bundle: Path, use_version, tmp_path: Path, capsys):
    steps = steps_of(model_bundle, tmp_path, None, power_modes=False)
    words = next(step.command for step in steps if step.name == f"bench {TENSORRT}")[len(HOBBIT) :]
    small = ["--repeat", "1", "--warmup", "0", "--prompt-tokens", "4", "--gen-tokens", "2", "--context", "64"]
    assert main([*words, *small, "--out", str(tmp_path / "report")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["choices"]["trunk"] == "tensorrt"
    assert fake_tensorrt.Builder.configs, "engines were built"


@pytest.mark.parametrize("trunk", ["int8", "int4"])
def test_a_quantised_trunk_gives_what_its_weights_stand_for(exported, use_version, trunk: str):
    bundle, found = exported(MODEL, "--tiers", "4", "--trunk", trunk), {}
    for backend in ("cpu", TENSORRT):
        with opened(bundle, backend, ALL) as engine:
            found[backend] = logits(engine)
    cpu, cuda = found.values()
    assert np.abs(cpu - cuda).max() <= 0.05 * np.abs(cpu).max()


def test_attention_without_a_kernel_is_built_of_products(exported, use_version, monkeypatch, caplog):
    bundle, found = exported(MODEL, "--tiers", "4", "--trunk", "int4"), []
    use_version(RELEASES[1])
    for lacks in ("", "Attention"):
        monkeypatch.setattr(fake_tensorrt.Builder, "lacks", lacks)
        with opened(bundle, TENSORRT, ALL, context=128 - len(found)) as engine:
            found.append(logits(engine))
    assert "layer_000: its attention becomes products and a softmax: TensorRT 10.16.2.10 cannot build" in caplog.text
    assert "no implementation for Attention" in caplog.text
    assert np.abs(found[0] - found[1]).max() <= 2e-2 * np.abs(found[0]).max(), "half precision, in another order"
    monkeypatch.setattr(fake_tensorrt.Builder, "fails", True)
    with pytest.raises(DeviceError, match=r"cannot build layer_000: no kernel fits the workspace"):
        opened(bundle, TENSORRT, ALL, context=64)


@pytest.mark.oracle
@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize(
    ("case", "backend", "trunk"),
    [("deepseek_v2", "cuda", "tensorrt"), ("gpt_oss", TENSORRT, "tensorrt"), ("lfm2_moe", "cuda", "cpu")],
)
def test_families_run_where_their_parts_are_known(
    exported, shared_folder, use_version, monkeypatch, case: str, backend: str, trunk: str, version: str
):
    """Where the kernels are taken to lack something, engines come next, and then the CPU."""
    monkeypatch.setattr(kernels, "why_not", lambda spec: "a width of layer 0")
    use_version(version)
    bundle = exported(make_checkpoint(case, shared_folder / f"trt-{case}"), "--tiers", "8", "--trunk", "fp32")
    ids, found = np.arange(1, 9, dtype=np.int32), []
    settings = {"context": 64, "prefill_chunk": 16, "threads": 1, "self_check": False, "memory": "4GiB"}
    for each in ("cpu", backend):
        with Engine.open(bundle, backend=each, **settings) as engine:
            found.append(np.concatenate([engine.logits(ids[:6], chunk=4), engine.logits(ids[:2], chunk=1)]))
            choice = engine.parts.backend.choices
    assert choice["trunk"] == trunk
    assert (choice["trunk_reason"] == "asked for") == (backend == TENSORRT)
    assert_close(found[1], found[0])


def test_engines_that_were_built_again_are_checked_again(model_bundle, use_version, tmp_path: Path, monkeypatch):
    """One that computes something else is refused, though engines of this bundle passed the check before."""
    from edge_runtime.backends.cuda.cubins import write_cubin
    from edge_runtime.bundle import self_check

    checked = []
    compare = self_check.self_check

    def count(*given, **more):
        checked.append(given)
        return compare(*given, **more)

    def start(context: int = 32) -> int:
        before = len(checked)
        opened(model_bundle, TENSORRT, ALL, context=context, self_check=True).close()
        return len(checked) - before

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(self_check, "self_check", count)
    assert [start(), start()] == [1, 0], "once"
    monkeypatch.setattr(fake_tensorrt.Builder, "wrong", "head")
    head, *_ = (tmp_path / "cache/hobbit-edge/engines").glob("*head*.plan")
    good = head.read_bytes()
    head.write_bytes(good[:-1])
    for context in (32, 32, 24):
        with pytest.raises(BundleError, match="self-check: correlation with the source model's logits"):
            start(context)
    monkeypatch.setattr(fake_tensorrt.Builder, "wrong", "")
    head, *_ = (tmp_path / "cache/hobbit-edge/engines").glob("*head*.plan")
    write_cubin(head, b"a plan of another driver")
    assert [start(24), start(24)] == [1, 0], "for another context there are other engines"


def test_what_cannot_be_built_is_named_and_leaves_nothing(
    model_bundle, of_cpu, use_version, fake: ctypes.CDLL, monkeypatch
):
    before = fake.fake_live_regions()
    monkeypatch.setattr(fake_tensorrt.OnnxParser, "refuses", "Softmax")
    with pytest.raises(DeviceError, match=r"TensorRT 10\.3\.0\.30 does not take layer_000: Softmax: no importer"):
        opened(model_bundle, TENSORRT, FEW)
    monkeypatch.setattr(fake_tensorrt.OnnxParser, "refuses", "")
    monkeypatch.setattr(fake_tensorrt.Builder, "fails", True)
    with pytest.raises(DeviceError, match=r"cannot build layer_000: no kernel fits the workspace\. Use --backend"):
        opened(model_bundle, TENSORRT, FEW)
    assert fake.fake_live_regions() == before
    monkeypatch.setattr(fake_tensorrt.Builder, "fails", False)
    with opened(model_bundle, TENSORRT, FEW) as engine:
        assert_close(logits(engine), of_cpu[0])
        with pytest.raises(RequestError, match="engines are built for caches of 128 tokens, got 64"):
            engine.parts.trunk.new_kv_cache(64)


def test_a_library_that_is_not_here_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DeviceError, match="cannot be imported: No module named 'no_tensorrt'.*python3-libnvinfer"):
        load_library("no_tensorrt")
    monkeypatch.setitem(__import__("sys").modules, "old_tensorrt", fake_tensorrt.make_module("8.6.2"))
    with pytest.raises(DeviceError, match=r"TensorRT 8\.6\.2: there are lowerings for 10\.3, 10\.16"):
        load_library("old_tensorrt")
    monkeypatch.setitem(__import__("sys").modules, "new_tensorrt", fake_tensorrt.make_module("10.16.2.10"))
    assert load_library("new_tensorrt").version.jetpack == "7.2"


@pytest.mark.usefixtures("over_fake")
def test_without_the_library_auto_says_so_and_the_cpu_runs_the_trunk(model_bundle, monkeypatch):
    monkeypatch.setattr(kernels, "why_not", lambda spec: "layer 3: attention of kind 'mla'")
    with opened(model_bundle, "cuda", FEW) as engine:
        name, why = engine.parts.backend.trunk[:2]
    assert name == "cpu"
    assert why.startswith("the kernels lack layer 3: attention of kind 'mla'; TensorRT cannot be imported")
    with pytest.raises(DeviceError, match="TensorRT cannot be imported"):
        opened(model_bundle, TENSORRT, FEW)
    from edge_runtime.backends.cuda.tensorrt import supported as engines

    monkeypatch.setattr(engines, "why_not", lambda spec: "layer 3: attention of kind 'mla'")
    with pytest.raises(ConfigError, match="TensorRT does not run this model: layer 3"):
        opened(model_bundle, TENSORRT, FEW)
