"""The expert kernels behind the engine's seam, over the fake driver: what the engine asks for, against the CPU's kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest
from cuda.bench import Bench, make_expert
from specs import layer, model_spec

from edge_runtime.backends.cpu.experts import CpuKernels
from edge_runtime.backends.cpu.kernels.reference import KERNEL_BOUND
from edge_runtime.backends.cuda.driver import CudaMemoryError
from edge_runtime.backends.cuda.experts import CudaExpertKernels
from edge_runtime.backends.cuda.tensors import DeviceTensor
from edge_runtime.backends.kernels import ExpertKernels, Resident
from edge_runtime.base.spec import ExpertSpec, ModelSpec

HIDDEN, INTER, EXPERTS, TOP_K, MOST = 64, 96, 6, 2, 24


def model(**form: object) -> ModelSpec:
    sizes = {"hidden": HIDDEN, "num_experts": EXPERTS, "top_k": TOP_K}
    return model_spec(layer(), experts=ExpertSpec(INTER, **form), **sizes)


SPEC = model()


class Both:
    """The same experts on the GPU and on the CPU."""

    def __init__(self, bench: Bench, spec: ModelSpec, tier: int) -> None:
        self.bench, self.tier = bench, tier
        self.kernels: ExpertKernels[DeviceTensor] = CudaExpertKernels(bench.module, bench.stream, spec, MOST)
        self.cpu = CpuKernels(spec, MOST, 1)
        self._kept = [make_expert(HIDDEN, spec.experts, seed).parts(tier) for seed in range(EXPERTS)]
        self._kept = [tuple(aligned(part) for part in parts) for parts in self._kept]
        self.on_cpu, self.on_gpu = np.zeros((EXPERTS, 4), np.uint64), np.zeros((EXPERTS, 4), np.uint64)
        for e, parts in enumerate(self._kept):
            for k, part in enumerate(parts):
                self.on_cpu[e, k], self.on_gpu[e, k] = part.ctypes.data, bench.put(part)

    def tensor(self, x: np.ndarray) -> DeviceTensor:
        return DeviceTensor(self.bench.put(x), *x.shape)

    def read(self, tensor: DeviceTensor) -> np.ndarray:
        out = np.empty((tensor.rows, tensor.width), np.float32)
        self.bench.stream.synchronize()
        copy = (tensor.address, out.nbytes, self.bench.stream.handle)
        self.bench.device.call("cuMemcpyDtoHAsync_v2", out.ctypes.data, *copy)
        self.bench.stream.synchronize()
        return out

    def resident(self) -> Resident:
        slots = np.arange(EXPERTS, dtype=np.int32)[::-1].copy()
        return Resident(self.tier, self.on_gpu[::-1].copy(), slots)


def aligned(part: np.ndarray) -> np.ndarray:
    raw = np.zeros(part.size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    raw[start : start + part.size] = part
    return raw[start : start + part.size]


def decided(tokens: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, HIDDEN)).astype(np.float32)
    ids = np.stack([rng.permutation(EXPERTS)[:TOP_K] for _ in range(tokens)]).astype(np.int32)
    return x, ids, rng.random((tokens, TOP_K)).astype(np.float32) + np.float32(0.1)


def streamed(both: Both, x: np.ndarray, ids: np.ndarray, weights: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Some experts a call, as they are read."""
    both.kernels.begin(both.tensor(x), ids, weights)
    for part in np.array_split(order, 3):
        both.kernels.run_experts(both.tier, both.on_gpu[part], part.astype(np.int32))
    return both.read(both.kernels.end())


@pytest.fixture
def made(bench: Bench) -> Iterator[list[Both]]:
    made: list[Both] = []
    yield made
    for each in made:
        each.kernels.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("tokens", [1, 2, 20])
@pytest.mark.parametrize("tier", [2, 4, 6, 8, 16])
def test_streamed_and_resident_experts_give_the_same_bits_close_to_the_cpus(
    bench: Bench, made: list[Both], tier: int, tokens: int
):
    made.append(both := Both(bench, SPEC, tier))
    x, ids, weights = decided(tokens)
    used = np.unique(ids)
    first = streamed(both, x, ids, weights, used)
    again = streamed(both, x, ids, weights, used[::-1])
    whole = both.read(both.kernels.run_resident(both.tensor(x), ids, weights, both.resident()))
    assert first.tobytes() == again.tobytes() == whole.tobytes()
    own = np.arange(EXPERTS, dtype=np.int32)
    want = both.cpu.run_resident(x, ids, weights, Resident(tier, both.on_cpu, own))
    assert np.abs(whole - want).max() <= KERNEL_BOUND * np.abs(want).max()


def test_a_token_gets_the_same_bits_whoever_else_is_in_the_pass(bench: Bench, made: list[Both]):
    made.append(both := Both(bench, SPEC, 4))
    x, ids, weights = decided(20, seed=1)
    resident = both.resident()
    whole = both.read(both.kernels.run_resident(both.tensor(x), ids, weights, resident))
    for row in (0, 7, 19):
        one = slice(row, row + 1)
        alone = both.read(both.kernels.run_resident(both.tensor(x[one]), ids[one], weights[one], resident))
        assert alone.tobytes() == whole[one].tobytes()


def test_an_expert_of_weight_zero_is_not_computed(bench: Bench, made: list[Both]):
    made.append(both := Both(bench, SPEC, 8))
    x, ids, weights = decided(2, seed=2)
    weights[0, 1] = 0
    left_out = int(ids[0, 1])
    both.kernels.begin(both.tensor(x), ids, weights)
    needed = np.array([e for e in np.unique(ids) if e != left_out or left_out in ids[1]], np.int32)
    both.kernels.run_experts(8, both.on_gpu[needed], needed)
    got = both.read(both.kernels.end())
    want = both.cpu.run_resident(x, ids, weights, Resident(8, both.on_cpu, np.arange(EXPERTS, dtype=np.int32)))
    assert np.abs(got - want).max() <= KERNEL_BOUND * np.abs(want).max()


def test_what_the_host_changes_after_a_call_does_not_matter(bench: Bench, made: list[Both]):
    """Nothing has run when the calls return; a slot that moves afterwards is the next call's affair."""
    made.append(both := Both(bench, SPEC, 4))
    x, ids, weights = decided(2, seed=3)
    resident = both.resident()
    want = both.read(both.kernels.run_resident(both.tensor(x), ids, weights, resident))
    given = ids.copy(), weights.copy()
    late = both.kernels.run_resident(both.tensor(x), *given, resident)
    given[0][:], given[1][:] = 0, 0
    resident.slots[:] = -1
    assert both.read(late).tobytes() == want.tobytes()


def test_slots_that_moved_are_found_again(bench: Bench, made: list[Both]):
    made.append(both := Both(bench, SPEC, 4))
    x, ids, weights = decided(2, seed=4)
    first = both.resident()
    want = both.read(both.kernels.run_resident(both.tensor(x), ids, weights, first))
    own = np.arange(EXPERTS, dtype=np.int32)
    moved = Resident(4, both.on_gpu.copy(), own)
    assert both.read(both.kernels.run_resident(both.tensor(x), ids, weights, moved)).tobytes() == want.tobytes()
    streamed(both, x, ids, weights, np.unique(ids))  # takes the place of the table of slots
    assert both.read(both.kernels.run_resident(both.tensor(x), ids, weights, moved)).tobytes() == want.tobytes()


@pytest.mark.parametrize(
    "form", [{"bias": True, "limit": 1.0, "alpha": 1.702, "up_offset": 1.0}, {"gated": False, "activation": "relu2"}]
)
def test_other_forms_of_experts(bench: Bench, made: list[Both], form: dict[str, object]):
    spec = model(**form)
    made.append(both := Both(bench, spec, 6))
    x, ids, weights = decided(9, seed=5)
    whole = both.read(both.kernels.run_resident(both.tensor(x), ids, weights, both.resident()))
    want = both.cpu.run_resident(x, ids, weights, Resident(6, both.on_cpu, np.arange(EXPERTS, dtype=np.int32)))
    assert np.abs(whole - want).max() <= KERNEL_BOUND * np.abs(want).max()


def test_scratch_that_does_not_fit_is_given_back(bench: Bench, fake: ctypes.CDLL):
    before = fake.fake_live_regions()
    fake.fake_fail(b"cuMemAlloc_v2", 2, 2)
    with pytest.raises(CudaMemoryError):
        CudaExpertKernels(bench.module, bench.stream, SPEC, MOST)
    assert fake.fake_live_regions() == before
    kernels = CudaExpertKernels(bench.module, bench.stream, SPEC, MOST)
    kernels.close()
    kernels.close()
    assert fake.fake_live_regions() == before


def test_released_scratch_is_taken_again(bench: Bench, made: list[Both], fake: ctypes.CDLL):
    made.append(both := Both(bench, SPEC, 4))
    x, ids, weights = decided(3, seed=6)
    resident = both.resident()
    tensor = both.tensor(x)
    want = both.read(both.kernels.run_resident(tensor, ids, weights, resident))
    before = fake.fake_live_regions()
    both.kernels.release_scratch()
    assert fake.fake_live_regions() <= before - 8
    assert both.read(both.kernels.run_resident(tensor, ids, weights, resident)).tobytes() == want.tobytes()
    assert fake.fake_live_regions() == before
