"""The trunk as TensorRT engines, over fakes of the driver and of TensorRT: the CPU backend's logits, plans that are kept."""

from __future__ import annotations

import ctypes
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import MODEL
from cuda import fake_tensorrt
from cuda.engines import ALL, FEW, assert_close, logits, make_all_resident, opened, tokens
from families import make_checkpoint

from edge_runtime import Engine, SamplingParams, backends
from edge_runtime.__main__ import main
from edge_runtime.backends.base import BackendOptions
from edge_runtime.backends.cuda.backend import CudaBackend
from edge_runtime.backends.cuda.driver import Driver
from edge_runtime.backends.cuda.gpu import Gpu
from edge_runtime.backends.cuda.nvrtc import Nvrtc
from edge_runtime.backends.cuda.tensorrt.allow_list import version_for
from edge_runtime.backends.cuda.tensorrt.library import Library, load_library
from edge_runtime.backends.cuda.trunk import supported as kernels
from edge_runtime.base.errors import BundleError, ConfigError, DeviceError, RequestError
from edge_runtime.lab.bringup.steps import HOBBIT, steps_of

VERSIONS = ("10.3.0.30", "10.16.2.10")
TENSORRT = "cuda:trunk=tensorrt"


@pytest.fixture
def use(
    fake: ctypes.CDLL, nvrtc: Nvrtc, kernel_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], None]]:
    """Put a version of the fake TensorRT in place, with plans in a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fake_tensorrt.IExecutionContext, "driver", fake, raising=False)
    fake_tensorrt.Builder.configs.clear()
    real, used = backends.BACKENDS["cuda"], [VERSIONS[0]]

    def load() -> Library:
        found = version_for(used[0])
        assert found is not None
        return Library(fake_tensorrt.make_module(used[0]), found)

    def make(options: BackendOptions) -> CudaBackend:
        def open_gpu(index: int) -> Gpu:
            return Gpu(Driver(fake), index, folder=kernel_folder, compiler=lambda: nvrtc)

        return CudaBackend(options, open_gpu, load)

    monkeypatch.setitem(backends.BACKENDS, "cuda", backends.RegisteredBackend(make, "over fakes", params=real.params))
    yield lambda version: used.__setitem__(0, version)
    fake_tensorrt.Builder.configs.clear()


@pytest.fixture(scope="module")
def of_cpu(model_bundle: Path) -> tuple[np.ndarray, list[int]]:
    with opened(model_bundle, "cpu", ALL) as engine:
        return logits(engine), tokens(engine)


@pytest.mark.parametrize("version", VERSIONS)
def test_tokens_are_the_cpu_backends(model_bundle, of_cpu, use, fake: ctypes.CDLL, version: str):
    use(version)
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


def test_experts_are_routed_on_the_device_beside_engines(model_bundle, of_cpu, use):
    with opened(model_bundle, TENSORRT, ALL) as engine:
        make_all_resident(engine)
        assert_close(logits(engine), of_cpu[0])


def test_the_bring_ups_benchmark_runs_over_engines(model_bundle: Path, use, tmp_path: Path, capsys):
    steps = steps_of(model_bundle, tmp_path, None, power_modes=False)
    words = next(step.command for step in steps if step.name == f"bench {TENSORRT}")[len(HOBBIT) :]
    small = ["--repeat", "1", "--warmup", "0", "--prompt-tokens", "4", "--gen-tokens", "2", "--context", "64"]
    assert main([*words, *small, "--out", str(tmp_path / "report")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["choices"]["trunk"] == "tensorrt"
    assert fake_tensorrt.Builder.configs, "engines were built"


@pytest.mark.parametrize("trunk", ["int8", "int4"])
def test_a_quantised_trunk_gives_what_its_weights_stand_for(exported, use, trunk: str):
    bundle, found = exported(MODEL, "--tiers", "4", "--trunk", trunk), {}
    for backend in ("cpu", TENSORRT):
        with opened(bundle, backend, ALL) as engine:
            found[backend] = logits(engine)
    cpu, cuda = found.values()
    assert np.abs(cpu - cuda).max() <= 0.05 * np.abs(cpu).max()


def test_attention_without_a_kernel_is_built_of_products(exported, use, monkeypatch, caplog):
    bundle, found = exported(MODEL, "--tiers", "4", "--trunk", "int4"), []
    use(VERSIONS[1])
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
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("case", "backend", "trunk"),
    [("deepseek_v2", "cuda", "tensorrt"), ("gpt_oss", TENSORRT, "tensorrt"), ("lfm2_moe", "cuda", "cpu")],
)
def test_families_run_where_their_parts_are_known(
    exported, shared_folder, use, monkeypatch, case: str, backend: str, trunk: str, version: str
):
    """Where the kernels are taken to lack something, engines come next, and then the CPU."""
    monkeypatch.setattr(kernels, "why_not", lambda spec: "a width of layer 0")
    use(version)
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


def test_plans_are_kept_and_built_again_when_something_changed(model_bundle, of_cpu, use, tmp_path: Path, caplog):
    def built(context: int = 128, chunk: int = 16) -> int:
        fake_tensorrt.Builder.configs.clear()
        with opened(model_bundle, TENSORRT, FEW, context=context, prefill_chunk=chunk) as engine:
            assert_close(logits(engine), of_cpu[0])
        return len(fake_tensorrt.Builder.configs)

    all_parts = built()
    (config, *_), folder = fake_tensorrt.Builder.configs, tmp_path / "cache/hobbit-edge/engines"
    assert config.limits == {fake_tensorrt.MemoryPoolType.WORKSPACE: 256 << 20}
    assert config.cleared == {fake_tensorrt.BuilderFlag.TF32}, "what chooses experts is not rounded"
    assert [profile.shapes["resid"] for profile in config.profiles] == [
        [[1, 1, d]] * 3 if t == 1 else [[1, 2, d], [1, t, d], [1, t, d]]
        for t in (1, 16)
        for d in (config.profiles[0].shapes["resid"][0][2],)
    ]
    assert len(list(folder.glob("*.plan"))) == all_parts
    assert (folder / "timings").read_bytes().startswith(b"timed")
    assert built() == 0
    assert built(context=64) == all_parts
    assert len(list(folder.glob("*.plan"))) == all_parts, "those of another context are gone"
    use(VERSIONS[1])
    assert built(context=64) == all_parts
    one, *_ = folder.glob("*.plan")
    one.write_bytes(one.read_bytes()[:-1])
    other = sorted(folder.glob("*.plan"))[-1]
    with caplog.at_level(logging.WARNING):
        assert built(context=64) == 1
    assert "is damaged" in caplog.text
    from edge_runtime.backends.cuda.cubins import write_cubin

    write_cubin(other, b"a plan of another driver")
    assert built(context=64) == 1
    assert "does not take its plan. It is built again." in caplog.text
    (folder / "timings").write_bytes(b"broken")
    other.unlink()
    assert built(context=64) == 1
    assert (folder / "timings").read_bytes() == b"timed"


def test_engines_that_were_built_again_are_checked_again(model_bundle, use, tmp_path: Path, monkeypatch):
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


def test_building_says_how_far_it_is(model_bundle, use, caplog, capsys):
    """As the command line shows it without --verbose: a line for each graph, before the minutes it takes."""
    with caplog.at_level(logging.WARNING), opened(model_bundle, TENSORRT, FEW) as engine:
        parts = [
            name for name in (p.name for p in engine.parts.bundle.manifest.of_role("trunk")) if "embed" not in name
        ]
        graphs = [name for name in parts if name.endswith(".onnx") and "routers" not in name]
        said = [
            record.getMessage() for record in caplog.records if record.getMessage().startswith("tensorrt: building")
        ]
        assert len(said) == len(fake_tensorrt.Builder.configs) == len(graphs)
    assert [f", {n} of {len(said)}, once for this GPU and context" in each for n, each in enumerate(said, 1)] == [
        True
    ] * len(said)
    caplog.clear()
    with caplog.at_level(logging.WARNING), opened(model_bundle, TENSORRT, FEW):
        assert "building" not in caplog.text, "they are kept"


def test_what_cannot_be_built_is_named_and_leaves_nothing(model_bundle, of_cpu, use, fake: ctypes.CDLL, monkeypatch):
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
