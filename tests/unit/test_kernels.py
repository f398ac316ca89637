"""The native kernels against the numpy reference, against each other, and against bad arguments."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from dataclasses import dataclass, replace

import kernel_cases
import numpy as np
import pytest
from kernel_cases import Case

from edge_runtime.backends.cpu.kernels import ExpertEncoder, ExpertKernels, available_isas, reference
from edge_runtime.base.checksum import crc32c

TIERS = (2, 4, 6, 8, 16)
SHAPES = [(32, 32), (64, 96), (160, 224), (96, 768), (768, 64)]
EXPERTS, TOP_K = 4, 2


def aligned(data: np.ndarray) -> np.ndarray:
    raw = np.zeros(data.size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    raw[start : start + data.size] = data
    return raw[start : start + data.size]


@dataclass
class Expert:
    segments: list[np.ndarray]
    bf16: np.ndarray

    def parts(self, tier: int) -> list[np.ndarray]:
        return [self.bf16] if tier == 16 else self.segments[: tier // 2]


def make_expert(hidden: int, intermediate: int, seed: int) -> Expert:
    rng = np.random.default_rng(seed)
    encoder = ExpertEncoder(0, seed, hidden, intermediate, 4, bf16=True)
    for matrix, shape in enumerate([(intermediate, hidden)] * 2 + [(hidden, intermediate)]):
        rows = rng.standard_t(5, shape) / np.sqrt(shape[1])
        encoder.add_rows(matrix, 0, rows.astype(np.float32), "f32")
    encoder.finish()
    return Expert([aligned(encoder.segment(i)) for i in range(4)], aligned(encoder.bf16()))


@pytest.fixture(scope="module")
def experts() -> dict[tuple[int, int], list[Expert]]:
    return {shape: [make_expert(*shape, seed) for seed in range(EXPERTS)] for shape in SHAPES}


def addresses(experts: list[Expert], tier: int) -> np.ndarray:
    table = np.zeros((len(experts), 4), np.uint64)
    for n, expert in enumerate(experts):
        for k, part in enumerate(expert.parts(tier)):
            table[n, k] = part.ctypes.data
    return table


def make_case(tokens: int, hidden: int, seed: int = 0) -> Case:
    return kernel_cases.make_case(tokens, hidden, seed, experts=EXPERTS, top_k=TOP_K)


def forward(kernels: ExpertKernels, case: Case, experts: list[Expert], tier: int) -> np.ndarray:
    out = np.full_like(case.x, np.nan)
    kernels.forward(case.x, tier, addresses(experts, tier), case.starts, case.pairs, case.weights, out)
    return out


def expected(case: Case, experts: list[Expert], tier: int, intermediate: int) -> np.ndarray:
    hidden = case.x.shape[1]
    outputs = []
    for expert in experts:
        weights = (
            reference.decode_bf16(expert.bf16, hidden, intermediate)
            if tier == 16
            else reference.decode_expert(expert.segments, hidden, intermediate, tier)
        )
        outputs.append(reference.expert_forward(case.x, weights, quantized=tier != 16))
    y = np.stack(outputs)[case.chosen, np.arange(len(case.x))[:, None]]
    return np.asarray((case.weights[:, :, None] * y).sum(1))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_isa_agrees_with_the_reference_and_bit_for_bit_with_the_others(
    experts: dict[tuple[int, int], list[Expert]], shape: tuple[int, int], tier: int
) -> None:
    hidden, intermediate = shape
    worst = 0.0
    for tokens in (1, 2, 3, 7, 33):
        case = make_case(tokens, hidden, seed=tokens)
        want = expected(case, experts[shape], tier, intermediate)
        results = []
        for isa in available_isas():
            kernels = ExpertKernels(hidden, intermediate, TOP_K, tokens, threads=2, isa=isa)
            assert kernels.isa == isa
            results.append(forward(kernels, case, experts[shape], tier))
            assert np.array_equal(results[-1], results[0]), f"{isa} differs from {available_isas()[0]}"
        worst = max(worst, float(np.abs(results[0] - want).max() / np.abs(want).max()))
    print(f"D={hidden} I={intermediate} tier {tier}: max|dy| = {worst:.1e} max|y| on {available_isas()}")
    assert worst <= (1e-5 if tier == 16 else reference.KERNEL_BOUND)


@pytest.mark.parametrize("tier", TIERS)
def test_threads_batching_subset_and_order_do_not_change_a_bit(
    experts: dict[tuple[int, int], list[Expert]], tier: int
) -> None:
    hidden, intermediate = 160, 224
    pool = experts[hidden, intermediate]
    case = make_case(128, hidden)
    whole = forward(ExpertKernels(hidden, intermediate, TOP_K, 128), case, pool, tier)
    for threads in (2, 3):
        kernels = ExpertKernels(hidden, intermediate, TOP_K, 128, threads=threads)
        assert np.array_equal(forward(kernels, case, pool, tier), whole)

    kernels = ExpertKernels(hidden, intermediate, TOP_K, 128, threads=2)
    kernels.quantize(case.x)
    rng = np.random.default_rng(3)
    for n in reversed(range(EXPERTS)):  # one expert a call, its tokens shuffled and cut in two
        mine = rng.permutation(case.pairs[case.starts[n] : case.starts[n + 1]])
        for part in np.array_split(mine, 2):
            kernels.run(tier, addresses([pool[n]], tier), np.array([0, part.size], np.int32), part)
    out = np.empty_like(case.x)
    kernels.combine(case.weights, out)
    assert np.array_equal(out, whole)

    single = ExpertKernels(hidden, intermediate, TOP_K, 1)
    for token in (0, 57, 127):
        chosen = case.chosen[token]
        alone = Case(
            case.x[token : token + 1].copy(),
            case.weights[token : token + 1].copy(),
            chosen[None],
            np.arange(TOP_K + 1, dtype=np.int32),
            np.arange(TOP_K, dtype=np.int32),
        )
        assert np.array_equal(forward(single, alone, [pool[n] for n in chosen], tier)[0], whole[token])


@pytest.mark.parametrize("tier", TIERS)
def test_a_plan_gives_the_bits_of_its_pairs(experts: dict[tuple[int, int], list[Expert]], tier: int) -> None:
    hidden, intermediate = 160, 224
    pool = experts[hidden, intermediate]
    kernels, others = (ExpertKernels(hidden, intermediate, TOP_K, 33, threads=2) for _ in range(2))
    rng = np.random.default_rng(1)
    for tokens in (1, 4, 33, 2):
        case = make_case(tokens, hidden, seed=tokens)
        whole = forward(kernels, case, pool, tier)
        ids = case.chosen.astype(np.int32)
        out = np.empty_like(case.x)
        slots = np.array([2, 0, -1, 3, 1, -1], np.int32)  # experts 2 and 5 are nowhere, and nobody asks for 5
        ids[ids == 2] = 4
        table = addresses([pool[1], pool[2], pool[0], pool[3]], tier)
        kernels.run_resident(case.x, ids, case.weights, tier, table, slots, out)
        assert np.array_equal(out, whole)

        kernels.begin(case.x, ids, case.weights, 6)
        place, ran, so_far = {0: 0, 1: 1, 3: 3, 4: 2}, np.zeros(6, bool), np.empty_like(case.x)
        for expert in rng.permutation([0, 1, 3, 4]).tolist():
            kernels.run_experts(tier, addresses([pool[place[expert]]], tier), np.array([expert], np.int32))
            ran[expert] = True
            kernels.so_far(so_far)
            weights = np.where(ran[ids], case.weights, np.float32(0))
            alone = forward(others, replace(case, weights=weights), pool, tier)
            assert np.array_equal(so_far, alone), "the others weigh nothing"
        again = np.empty_like(case.x)
        kernels.end(again)
        assert np.array_equal(again, whole)
        rows = np.empty((2, hidden), np.float32)
        kernels.outputs(np.array([1, 0], np.int32), rows)
        first = case.weights[0, 0] * rows[1]
        np.testing.assert_allclose(first + case.weights[0, 1] * rows[0], whole[0], rtol=1e-5, atol=1e-5)


def test_bad_plans_are_refused_by_name(experts: dict[tuple[int, int], list[Expert]]) -> None:
    pool = experts[64, 96]
    kernels = ExpertKernels(64, 96, TOP_K, 2)
    x, weights = np.zeros((2, 64), np.float32), np.ones((2, TOP_K), np.float32)
    ids, out, table = np.array([[0, 1], [1, 3]], np.int32), np.empty((2, 64), np.float32), addresses(pool, 4)
    slots = np.arange(4, dtype=np.int32)
    with pytest.raises(ValueError, match=r"expert ids must be in 0\.\.2, got 3"):
        kernels.begin(x, ids, weights, 3)
    with pytest.raises(ValueError, match="expert 3 has no slot"):
        kernels.run_resident(x, ids, weights, 4, table[:3], slots, out)
    with pytest.raises(ValueError, match="ids, weights: expected 2 rows"):
        kernels.begin(x, ids[:1], weights, 4)
    kernels.begin(x, ids, weights, 4)
    with pytest.raises(ValueError, match="expert 9 is not one of begin"):
        kernels.run_experts(4, table[:1], np.array([9], np.int32))
    with pytest.raises(ValueError, match="end: expected 2 tokens"):
        kernels.end(out[:1])
    with pytest.raises(ValueError, match="outputs: pair 4"):
        kernels.outputs(np.array([4], np.int32), out[:1])


def test_mixed_tiers_and_a_zero_weight_skip_stale_results(experts: dict[tuple[int, int], list[Expert]]) -> None:
    hidden, intermediate = 64, 96
    pool = experts[hidden, intermediate]
    kernels = ExpertKernels(hidden, intermediate, TOP_K, 1)
    x = np.random.default_rng(0).standard_normal((1, hidden)).astype(np.float32)
    kernels.quantize(x)
    one = np.array([0, 1], np.int32)
    kernels.run(16, addresses([pool[0]], 16), one, np.array([0], np.int32))
    kernels.quantize(np.full_like(x, np.nan))
    kernels.run(8, addresses([pool[1]], 8), one, np.array([1], np.int32))
    kernels.quantize(x)
    kernels.run(4, addresses([pool[2]], 4), one, np.array([0], np.int32))
    out, both = np.empty_like(x), np.array([[0.5, 1.0]], np.float32)
    kernels.combine(np.array([[0.5, 0.0]], np.float32), out)
    assert np.isfinite(out).all()
    kernels.combine(both, out)
    assert np.isnan(out).all(), "a nan input must show in the output"


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("tier", TIERS)
def test_extreme_activations_do_not_saturate(experts: dict[tuple[int, int], list[Expert]], tier: int, isa: str) -> None:
    hidden, intermediate = 96, 768
    pool = experts[hidden, intermediate]
    case = make_case(3, hidden)
    case.x[0] = 3e4  # all codes 127
    case.x[1] = -3e4
    case.x[2] = 0
    got = forward(ExpertKernels(hidden, intermediate, TOP_K, 3, isa=isa), case, pool, tier)
    want = expected(case, pool, tier, intermediate)
    bound = reference.KERNEL_BOUND * np.abs(want).max(axis=1, keepdims=True)
    assert (np.abs(got - want) <= bound).all()
    assert not got[2].any()


def test_silu_is_accurate_over_its_range() -> None:
    # One gate weight carries x through; up is x again, down passes unit 0: y = silu(x) * x.
    encoder = ExpertEncoder(0, 0, 32, 32, 1, bf16=True)
    eye = np.eye(32, dtype=np.float32)
    for matrix in range(3):
        for start in (0, 16):
            encoder.add_rows(matrix, start, eye[start : start + 16].copy(), "f32")
    encoder.finish()
    expert = Expert([], aligned(encoder.bf16()))
    x = np.linspace(-60, 60, 32 * 400, dtype=np.float32).reshape(400, 32)
    pairs = np.arange(400, dtype=np.int32)
    for isa in available_isas():
        kernels = ExpertKernels(32, 32, 1, 400, isa=isa)
        out = np.empty_like(x)
        starts = np.array([0, 400], np.int32)
        kernels.forward(x, 16, addresses([expert], 16), starts, pairs, np.ones((400, 1), np.float32), out)
        wide = x.astype(np.float64)
        want = wide * wide / (1 + np.exp(-wide))
        assert np.abs(out / want - 1).max() < 1e-6


def test_crc32c_known_values_and_continuation() -> None:
    assert crc32c(b"") == 0
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    data = np.random.default_rng(0).integers(0, 256, 40_001, np.uint8)
    whole = crc32c(data)
    assert whole == slow_crc32c(data.tobytes())
    for cut in (0, 1, 7, 6144, 12_289, 40_001):
        assert crc32c(data.tobytes()[cut:], crc32c(data[:cut])) == whole


def slow_crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ 0x82F63B78 * (value & 1)
    return value ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": 48}, "hidden must be a positive multiple of 32"),
        ({"intermediate": 0}, "intermediate must be a positive multiple of 32"),
        ({"hidden": -32}, "hidden must be"),
        ({"top_k": 0}, "top_k must be in"),
        ({"max_tokens": 0}, "max_tokens must be in"),
        ({"threads": 0}, "threads must be in"),
        ({"isa": "mmx"}, r"expected one of auto, .*scalar, got 'mmx'"),
    ],
)
def test_bad_construction_is_refused(arguments: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"hidden": 64, "intermediate": 96, "top_k": 2, "max_tokens": 4}
    with pytest.raises(ValueError, match=message):
        ExpertKernels(**(good | arguments))  # type: ignore[arg-type]


def test_bad_calls_are_refused(experts: dict[tuple[int, int], list[Expert]]) -> None:
    kernels = ExpertKernels(64, 96, TOP_K, 4)
    pool = experts[64, 96]
    table, one = addresses(pool[:1], 4), np.array([0, 1], np.int32)
    zero = np.array([0], np.int32)
    with pytest.raises(ValueError, match="quantize"):
        kernels.run(4, table, one, zero)
    for bad in (np.zeros((5, 64), np.float32), np.zeros((0, 64), np.float32)):
        with pytest.raises(ValueError, match="max_tokens"):
            kernels.quantize(bad)
    wrong_arrays: list[np.ndarray] = [
        np.zeros((2, 32), np.float32),
        np.zeros((2, 64)),
        np.zeros((64, 2), np.float32).T,
        np.zeros(64, np.float32),
    ]
    for wrong in wrong_arrays:
        with pytest.raises(ValueError, match=r"x: expected C-contiguous float32 \[n, 64\], got"):
            kernels.quantize(wrong)
    kernels.quantize(np.zeros((2, 64), np.float32))
    bad_runs: list[tuple[int, np.ndarray, np.ndarray, np.ndarray, str]] = [
        (5, table, one, zero, "tier must be one of"),
        (6, table, one, zero, "segment 2 of expert 0 has address 0"),
        (4, table.astype(np.int64), one, zero, "segments: expected"),
        (4, table[:, :3].copy(), one, zero, "segments: expected"),
        (4, table, one.astype(np.int64), zero, "starts: expected"),
        (4, table, np.array([0, 1, 1], np.int32), zero, "starts: expected 2 entries"),
        (4, table, np.array([0, 2], np.int32), zero, "starts must begin at 0 and end at 1"),
        (4, np.repeat(table, 2, 0), np.array([0, 2, 1], np.int32), zero, "starts must not decrease"),
        (4, table, one, np.array([4], np.int32), "pair index must be in 0..3"),
        (4, table, one, np.array([-1], np.int32), "pair index must be in"),
        (4, table, np.array([0, 2], np.int32), np.array([1, 1], np.int32), "pair 1 occurs twice"),
        (4, addresses([Expert([np.zeros(64, np.uint8)] * 4, pool[0].bf16)], 4), one, zero, "HBR1"),
    ]
    for tier, segments, starts, pairs, message in bad_runs:
        with pytest.raises(ValueError, match=message):
            kernels.run(tier, segments, starts, pairs)
    with pytest.raises(ValueError, match="combine: expected 2 tokens"):
        kernels.combine(np.zeros((1, TOP_K), np.float32), np.zeros((1, 64), np.float32))
    with pytest.raises(ValueError, match="out: expected"):
        kernels.combine(np.zeros((2, TOP_K), np.float32), np.zeros((1, 64), np.float32))


def test_scratch_is_allocated_once(experts: dict[tuple[int, int], list[Expert]]) -> None:
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    fields = [(name, ctypes.c_size_t) for name in names.split(" ")]
    mallinfo2_type = type("Mallinfo2", (ctypes.Structure,), {"_fields_": fields})
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        pytest.skip("this C library has no mallinfo2")
    mallinfo2.restype = mallinfo2_type
    kernels = ExpertKernels(64, 96, TOP_K, 33, threads=1)
    assert kernels.scratch_bytes >= 33 * TOP_K * (64 + 96) * 4
    case, table = make_case(33, 64), addresses(experts[64, 96], 8)
    out = np.empty_like(case.x)

    def call() -> None:
        kernels.forward(case.x, 8, table, case.starts, case.pairs, case.weights, out)

    call()
    before = mallinfo2().uordblks
    for _ in range(50):
        call()
    assert mallinfo2().uordblks - before < 4096


def test_a_missing_extension_is_named_with_the_fix() -> None:
    code = (
        "import sys; sys.modules['edge_runtime.backends.cpu.kernels._native'] = None\n"
        "try:\n    import edge_runtime.backends.cpu.kernels\nexcept ImportError as err:\n    print(err)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "native extension '_native' is missing" in shown
    assert "pip install -e ." in shown
