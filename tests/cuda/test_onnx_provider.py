"""The trunk on ONNX Runtime's CUDA provider, over a stand-in for it and the fake driver: tried first, then as the CPU's."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import MODEL
from cuda.engines import ALL, FEW, assert_close, logits, make_all_resident, opened, tokens
from cuda.fake_provider import FakeOnnxRuntime
from families import make_checkpoint

from edge_runtime import Engine, SamplingParams, backends
from edge_runtime.backends.base import BackendOptions
from edge_runtime.backends.cpu.trunk.graph_operators import OPERATORS
from edge_runtime.backends.cuda.backend import CudaBackend
from edge_runtime.backends.cuda.driver import Driver
from edge_runtime.backends.cuda.gpu import Gpu
from edge_runtime.backends.cuda.nvrtc import Nvrtc
from edge_runtime.backends.cuda.onnx.operators import cases
from edge_runtime.backends.cuda.onnx.provider import CUDA, HOST, try_provider
from edge_runtime.backends.cuda.tensorrt import supported as engines
from edge_runtime.backends.cuda.trunk import supported as kernels
from edge_runtime.base.errors import DeviceError
from edge_runtime.bundle.bundle import Bundle

ONNX = "cuda:trunk=onnx"


@pytest.fixture
def use(
    fake: ctypes.CDLL, nvrtc: Nvrtc, kernel_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., FakeOnnxRuntime]:
    """Put an ONNX Runtime in place; `taken` is what the system's available memory loses with each look at it."""

    def put(module: FakeOnnxRuntime, taken: int = 0) -> FakeOnnxRuntime:
        left = iter(range(1 << 40, 0, -taken or -1))

        def make(options: BackendOptions) -> CudaBackend:
            def open_gpu(index: int) -> Gpu:
                return Gpu(Driver(fake), index, folder=kernel_folder, compiler=lambda: nvrtc)

            return CudaBackend(options, open_gpu, try_onnx=lambda gpu: try_provider(gpu, lambda: module, left.__next__))

        here = backends.RegisteredBackend(make, "over fakes", params=backends.BACKENDS["cuda"].params)
        monkeypatch.setitem(backends.BACKENDS, "cuda", here)
        return module

    return put


@pytest.fixture(scope="module")
def of_cpu(model_bundle: Path) -> tuple[np.ndarray, list[int]]:
    with opened(model_bundle, "cpu", ALL, trunk="onnx") as engine:
        return logits(engine), tokens(engine)


def test_every_operator_a_graph_may_have_is_tried():
    named = {f"{case.domain}:{case.op}".lstrip(":") for case in cases()}
    assert named == OPERATORS.keys() - {"Shape"}, "shapes are worked out by the CPU"
    module = FakeOnnxRuntime()
    provider = try_provider(0, lambda: module, iter(range(10**9, 0, -7000)).__next__)
    assert module.runs[CUDA] == module.runs[HOST] == len(list(cases()))
    assert (provider.name, provider.session_bytes) == ("onnxruntime-cuda-1.99.0", 7000)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (FakeOnnxRuntime(listed=False), r"1\.99\.0 was built without its CUDA provider\. JetPack 6\.2: pip uninstall"),
        (FakeOnnxRuntime(loads=False), r"does not load: a library is missing, most often of cuBLAS or cuDNN\. JetPack"),
        (
            FakeOnnxRuntime(lacks="MatMulNBits"),
            r"MatMulNBits of 4 bits: .*assigned to the default CPU EP.*JetPack 7\.2",
        ),
        (FakeOnnxRuntime(fails="Softplus"), r"Softplus: .*cudaErrorNoKernelImageForDevice"),
        (FakeOnnxRuntime(wrong="Sigmoid"), r"Sigmoid: off by 1\.0e-03 of the largest number"),
    ],
    ids=["not built", "does not load", "no kernel", "no code for the GPU", "wrong"],
)
def test_a_provider_that_does_not_work_is_named_with_what_to_do(module: FakeOnnxRuntime, said: str):
    with pytest.raises(DeviceError, match=said):
        try_provider(0, lambda: module)


def test_auto_goes_on_to_the_cpu_and_says_why(model_bundle: Path, use, monkeypatch, caplog):
    use(FakeOnnxRuntime(fails="Softplus"))
    with pytest.raises(DeviceError, match="does not work here: Softplus"):
        opened(model_bundle, ONNX, FEW)
    monkeypatch.setattr(kernels, "why_not", lambda spec: "a width of layer 0")
    monkeypatch.setattr(engines, "why_not", lambda spec: "a width of layer 0")
    for _ in range(2):
        with opened(model_bundle, "cuda", FEW) as engine:
            choices = engine.parts.backend.choices
    assert choices["trunk"] == "cpu"
    said = f"cuda: experts are on the GPU, the trunk is on the CPU: {choices['trunk_reason']}"
    assert [record.message for record in caplog.records].count(said) == 1, "once a process"
    why = "the kernels lack a width of layer 0; TensorRT: a width of layer 0; the CUDA provider of ONNX Runtime 1.99.0"
    assert choices["trunk_reason"].startswith(why)


def test_this_machines_package_says_that_it_has_none():
    with pytest.raises(DeviceError, match="was built without its CUDA provider"):
        try_provider(0)


@pytest.mark.parametrize("slots", [FEW, ALL])
def test_tokens_are_the_cpu_backends(model_bundle: Path, of_cpu, use, fake: ctypes.CDLL, slots: int):
    module, before = use(FakeOnnxRuntime()), fake.fake_live_regions()
    with opened(model_bundle, ONNX, slots) as engine:
        if slots == ALL:
            make_all_resident(engine)
        assert_close(logits(engine), of_cpu[0])
        assert tokens(engine) == of_cpu[1]
        assert module.shrunk > 0, "chunks give back what they took of the GPU"
        alone, runs = module.shrunk, module.runs[CUDA]
        report = engine.generate([1], SamplingParams(max_tokens=2)).to_json()
        assert (module.shrunk, module.runs[CUDA] > runs) == (alone, True), "single tokens keep their room"
        assert report["choices"]["trunk"] == "onnx"
        assert "computes every operator" in report["choices"]["trunk_reason"]
        backend = engine.parts.backend
        assert backend.fingerprint.endswith("-onnxruntime-cuda-1.99.0")
        assert backend.driver_bytes > fake.fake_held_bytes(1), "with what sessions take by themselves"
    assert backend.driver_bytes == 0
    assert fake.fake_live_regions() == before, "all memory was given back"


def test_the_plan_counts_what_sessions_were_seen_to_take(model_bundle: Path, use):
    planned = []
    for taken in (1, 3 << 20):
        use(FakeOnnxRuntime(), taken)
        with opened(model_bundle, ONNX, FEW) as engine:
            planned.append(engine.parts.backend.formulas)
    manifest = Bundle.open(model_bundle).manifest
    graphs = sum(part.name.endswith(".onnx") for part in manifest.of_role("trunk"))
    less, more = (formulas.trunk_bytes(manifest) for formulas in planned)
    assert more - less == graphs * ((3 << 20) - 1)
    with opened(model_bundle, "cpu", FEW) as engine:
        on_host = engine.parts.backend.formulas.kv_bytes(manifest.model, 128)
    assert planned[0].kv_bytes(manifest.model, 128) == 2 * on_host


@pytest.mark.parametrize("trunk", ["int8", "int4"])
def test_a_quantised_trunk_gives_what_its_weights_stand_for(exported, use, trunk: str):
    use(FakeOnnxRuntime())
    bundle, found = exported(MODEL, "--tiers", "4", "--trunk", trunk), []
    for backend in ("cpu", ONNX):
        with opened(bundle, backend, ALL) as engine:
            found.append(logits(engine))
    assert np.abs(found[0] - found[1]).max() <= 0.05 * np.abs(found[0]).max()


@pytest.mark.oracle
@pytest.mark.parametrize("case", ["deepseek_v2", "lfm2_moe", "gemma4_text"])
def test_families_run_where_neither_kernels_nor_engines_know_them(exported, shared_folder, use, monkeypatch, case: str):
    use(FakeOnnxRuntime())
    monkeypatch.setattr(kernels, "why_not", lambda spec: "a width of layer 0")
    monkeypatch.setattr(engines, "why_not", lambda spec: "a width of layer 0")
    bundle = exported(make_checkpoint(case, shared_folder / f"onnx-{case}"), "--tiers", "8", "--trunk", "fp32")
    ids, found = np.arange(1, 9, dtype=np.int32), []
    settings = {"context": 64, "prefill_chunk": 16, "threads": 1, "self_check": False, "memory": "4GiB"}
    for backend in ("cpu", "cuda"):
        with Engine.open(bundle, backend=backend, **settings) as engine:
            found.append(np.concatenate([engine.logits(ids[:6], chunk=4), engine.logits(ids[:2], chunk=1)]))
            choices = engine.parts.backend.choices
    assert choices["trunk"] == "onnx"
    assert_close(found[1], found[0])


def test_looking_ahead_stays_with_the_host(model_bundle: Path, use):
    module = use(FakeOnnxRuntime())
    with opened(model_bundle, ONNX, FEW, prefetch="lookahead") as engine:
        before = module.runs[HOST]
        tokens(engine)
        assert module.runs[HOST] > before
