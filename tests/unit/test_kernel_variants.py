"""Experts other than SwiGLU: the native kernels against the numpy reference, per tier, instruction set, form and shape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import kernel_cases
import numpy as np
import pytest
from kernel_cases import Case

from edge_runtime.backends.cpu.activation import activate
from edge_runtime.backends.cpu.kernels import ExpertEncoder, ExpertKernels, available_isas, reference
from edge_runtime.base.spec import Activation, ExpertSpec

TIERS = (2, 4, 6, 8, 16)
SHAPES = [(32, 32), (64, 96), (160, 224), (768, 64)]
EXPERTS, TOP_K = 3, 2
WIDTH = 32  # replaced by that of each shape
FORMS: dict[str, ExpertSpec] = {
    "gpt_oss": ExpertSpec(WIDTH, bias=True, limit=1.1, alpha=1.702, up_offset=1.0),
    "silu limit": ExpertSpec(WIDTH, limit=0.7),
    "silu alpha": ExpertSpec(WIDTH, alpha=0.5),
    "silu bias": ExpertSpec(WIDTH, bias=True),
    "silu offset": ExpertSpec(WIDTH, up_offset=-0.5),
    "gelu": ExpertSpec(WIDTH, activation="gelu_tanh"),
    "gelu bias limit": ExpertSpec(WIDTH, activation="gelu_tanh", bias=True, limit=0.9, up_offset=0.25),
    "relu2 gated": ExpertSpec(WIDTH, activation="relu2", limit=1.5, bias=True),
    "relu2": ExpertSpec(WIDTH, gated=False, activation="relu2"),
    "relu2 bias": ExpertSpec(WIDTH, gated=False, activation="relu2", bias=True),
    "gelu ungated": ExpertSpec(WIDTH, gated=False, activation="gelu_tanh", bias=True),
    "silu ungated": ExpertSpec(WIDTH, gated=False, alpha=1.702),
}


def form_of(name: str, intermediate: int) -> ExpertSpec:
    return replace(FORMS[name], intermediate=intermediate)


def kernels_of(experts: ExpertSpec, hidden: int, tokens: int, threads: int = 2, isa: str = "auto") -> ExpertKernels:
    return ExpertKernels(hidden, top_k=TOP_K, max_tokens=tokens, threads=threads, isa=isa, **vars(experts))


def guarded(data: np.ndarray) -> np.ndarray:
    """A copy 64-byte aligned, with NaN behind its end: who reads on notices."""
    raw = np.full(data.size + 4096, 0xFF, np.uint8)
    start = -raw.ctypes.data % 64
    raw[start : start + data.size] = data
    return raw[start : start + data.size]


@dataclass
class Record:
    """Segments 0 to 3 and the bfloat16 record, with the source's biases."""

    parts: list[np.ndarray]
    biases: tuple[np.ndarray, ...]


def source(rng: np.random.Generator, experts: ExpertSpec, hidden: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    wide = len(experts.matrices) - 1
    shapes = [(experts.intermediate, hidden)] * wide + [(hidden, experts.intermediate)]
    matrices = [(rng.standard_t(5, s) / np.sqrt(s[1])).astype(np.float32) for s in shapes]
    biases = [(0.5 * rng.standard_normal(s[0])).astype(np.float32) for s in shapes] if experts.bias else []
    return matrices, biases


def encode(experts: ExpertSpec, hidden: int, seed: int) -> Record:
    matrices, biases = source(np.random.default_rng(seed), experts, hidden)
    shape = hidden, experts.intermediate, 4
    encoder = ExpertEncoder(0, seed, *shape, bf16=True, gated=experts.gated, bias=experts.bias)
    numbers = (0, 1, 2)[3 - len(matrices) :]
    for number, rows in zip(numbers, matrices, strict=True):
        encoder.add_rows(number, 0, rows, "f32")
    for number, bias in zip(numbers, biases, strict=False):
        encoder.add_bias(number, bias)
    encoder.finish()
    return Record([guarded(encoder.segment(i)) for i in (0, 1, 2, 3, -1)], tuple(biases))


@cache
def records(hidden: int, intermediate: int, gated: bool, bias: bool) -> list[Record]:
    experts = ExpertSpec(intermediate, gated=gated, bias=bias)
    return [encode(experts, hidden, seed) for seed in range(EXPERTS)]


@cache
def decoded(hidden: int, intermediate: int, gated: bool, bias: bool, tier: int) -> list[tuple]:
    """Weights and biases of each record, as the reference reads them."""
    found = []
    for record in records(hidden, intermediate, gated, bias):
        shape, form = (hidden, intermediate), {"gated": gated}
        base = record.parts[4 if tier == 16 else 0]
        weights = (
            reference.decode_bf16(base, *shape, **form)
            if tier == 16
            else reference.decode_expert(record.parts, *shape, tier, **form)
        )
        found.append((weights, reference.decode_biases(base, *shape, tier, **form) if bias else ()))
    return found


def addresses(pool: list[Record], tier: int) -> np.ndarray:
    table = np.zeros((len(pool), 4), np.uint64)
    for n, record in enumerate(pool):
        used = record.parts[4:] if tier == 16 else record.parts[: tier // 2]
        table[n, : len(used)] = [part.ctypes.data for part in used]
    return table


def make_case(tokens: int, hidden: int, seed: int) -> Case:
    return kernel_cases.make_case(tokens, hidden, [tokens, hidden, seed], experts=EXPERTS, top_k=TOP_K)


def forward(kernels: ExpertKernels, case: Case, pool: list[Record], tier: int) -> np.ndarray:
    """Run once on NaN, so that nothing left over can look right, and then on the case."""
    out = np.full_like(case.x, np.nan)
    table = addresses(pool, tier)
    kernels.forward(np.full_like(case.x, np.nan), tier, table, case.starts, case.pairs, case.weights, out)
    assert np.isnan(out).all(), "a nan input must show in every output"
    kernels.forward(case.x, tier, table, case.starts, case.pairs, case.weights, out)
    return out


def expected(case: Case, experts: ExpertSpec, tier: int) -> np.ndarray:
    outputs = [
        reference.expert_forward(case.x, weights, quantized=tier != 16, experts=experts, biases=biases)
        for weights, biases in decoded(case.x.shape[1], experts.intermediate, experts.gated, experts.bias, tier)
    ]
    y = np.stack(outputs)[case.chosen, np.arange(len(case.x))[:, None]]
    return np.asarray((case.weights[:, :, None] * y).sum(1))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", FORMS)
def test_every_isa_agrees_with_the_reference_and_bit_for_bit_with_the_others(form, shape, tier):
    hidden, intermediate = shape
    experts = form_of(form, intermediate)
    pool = records(hidden, intermediate, experts.gated, experts.bias)
    worst = 0.0
    for tokens, seed in ((1, 0), (1, 1), (2, 0), (7, 1), (33, 2)):
        case = make_case(tokens, hidden, seed)
        want = expected(case, experts, tier)
        results = [forward(kernels_of(experts, hidden, tokens, isa=isa), case, pool, tier) for isa in available_isas()]
        for isa, result in zip(available_isas(), results, strict=True):
            assert np.array_equal(result, results[0]), f"{isa} differs from {available_isas()[0]}"
        worst = max(worst, float(np.abs(results[0] - want).max() / np.abs(want).max()))
    print(f"{form} D={hidden} I={intermediate} tier {tier}: max|dy| = {worst:.1e} max|y| on {available_isas()}")
    assert worst <= (1e-5 if tier == 16 else reference.KERNEL_BOUND)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("form", ["gpt_oss", "relu2 bias", "gelu"])
def test_threads_batching_and_plans_do_not_change_a_bit(form, tier):
    hidden, intermediate = 160, 224
    experts = form_of(form, intermediate)
    pool = records(hidden, intermediate, experts.gated, experts.bias)
    case = make_case(65, hidden, 0)
    whole = forward(kernels_of(experts, hidden, 65, threads=1), case, pool, tier)
    kernels = kernels_of(experts, hidden, 65, threads=3)
    assert np.array_equal(forward(kernels, case, pool, tier), whole)

    ids, table, out = case.chosen.astype(np.int32), addresses(pool, tier), np.full_like(case.x, np.nan)
    kernels.begin(case.x, ids, case.weights, EXPERTS)
    for n in (2, 0, 1):
        kernels.run_experts(tier, table[n : n + 1], np.array([n], np.int32))
    kernels.end(out)
    assert np.array_equal(out, whole)
    out.fill(np.nan)
    kernels.run_resident(case.x, ids, case.weights, tier, table, np.arange(EXPERTS, dtype=np.int32), out)
    assert np.array_equal(out, whole)
    single = kernels_of(experts, hidden, 1)
    for token in (0, 31, 64):
        row = np.full((1, hidden), np.nan, np.float32)
        part = slice(token, token + 1)
        single.run_resident(
            case.x[part].copy(), ids[part].copy(), case.weights[part].copy(), tier, table,
            np.arange(EXPERTS, dtype=np.int32), row,
        )  # fmt: skip
        assert np.array_equal(row[0], whole[token])


def test_swiglu_by_its_general_formula_gives_the_bits_of_the_plain_one():
    """A limit nothing reaches takes the general path: the same bits, so that the two are one definition."""
    hidden, intermediate = 160, 224
    pool = records(hidden, intermediate, True, False)
    case = make_case(9, hidden, 4)
    for tier in TIERS:
        for isa in available_isas():
            plain = forward(kernels_of(ExpertSpec(intermediate), hidden, 9, isa=isa), case, pool, tier)
            general = forward(kernels_of(ExpertSpec(intermediate, limit=1e6), hidden, 9, isa=isa), case, pool, tier)
            assert np.array_equal(plain, general)


def identity(experts: ExpertSpec) -> Record:
    """An expert of 32 inputs whose matrices pass everything through, as bfloat16."""
    encoder = ExpertEncoder(0, 0, 32, 32, 1, bf16=True, gated=experts.gated, bias=experts.bias)
    for number in (0, 1, 2)[3 - len(experts.matrices) :]:
        encoder.add_rows(number, 0, np.eye(32, dtype=np.float32), "f32")
        if experts.bias:
            encoder.add_bias(number, np.zeros(32, np.float32))
    encoder.finish()
    return Record([guarded(encoder.bf16())] * 5, ())


def passed_through(experts: ExpertSpec, x: np.ndarray, isa: str) -> np.ndarray:
    """What each number of x [n, 32] becomes."""
    kernels = ExpertKernels(32, top_k=1, max_tokens=len(x), isa=isa, **vars(experts))
    out, record = np.full_like(x, np.nan), identity(experts)
    pairs, starts = np.arange(len(x), dtype=np.int32), np.array([0, len(x)], np.int32)
    table = addresses([record], 16)
    kernels.forward(x, 16, table, starts, pairs, np.ones((len(x), 1), np.float32), out)
    return out


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("kind", ["silu", "gelu_tanh", "relu2"])
def test_activations_are_accurate_over_their_range(kind: Activation, isa: str):
    x = np.linspace(-40, 40, 32 * 1000, dtype=np.float32).reshape(1000, 32)
    got = passed_through(ExpertSpec(32, gated=False, activation=kind), x, isa).astype(np.float64)
    want = activate(kind, x.astype(np.float64))
    near = np.abs(want) > 1e-6
    assert np.abs(got / np.where(near, want, 1) - 1)[near].max() < 4e-6  # the argument's own rounding, in an exponent
    assert np.abs(got - want)[~near].max() < 1e-9


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_a_number_stays_so_and_clamps_hold(form, isa):
    experts = form_of(form, 32)
    x = np.zeros((4, 32), np.float32)
    x[0, 0], x[1, 0], x[2, 0], x[3, 0] = np.nan, 1e30, -1e30, 3e38
    with np.errstate(over="ignore", invalid="ignore"):
        out = passed_through(experts, x, isa)
    assert np.isnan(out[0, 0])
    if experts.limit is not None:
        top = float(activate(experts.activation, np.array(experts.limit), experts.alpha)) * (
            experts.limit + experts.up_offset
        )
        assert out[1, 0] == pytest.approx(top, rel=1e-5)
        assert out[3, 0] == out[1, 0]
        assert abs(out[2, 0]) < 1e-6


@pytest.mark.parametrize(("gated", "bias"), [(False, False), (False, True), (True, True)])
def test_biases_lie_behind_what_every_tier_reads(gated: bool, bias: bool):
    """Sizes and places by hand, for D = 64 and I = 96."""
    record = encode(ExpertSpec(96, gated=gated, bias=bias), 64, 5)
    plain = encode(ExpertSpec(96), 64, 5)
    wide = 192 if gated else 96
    panels = wide // 16 * (192 + 64) + 64 // 16 * (192 + 96)
    end = 64 + panels + 64 * (wide + 96) // 4
    biases = 4 * (wide + 64) if bias else 0
    assert record.parts[0].size == -(-(end + biases) // 4096) * 4096
    assert record.parts[4].size == -(-(2 * 64 * (wide + 96) + biases) // 4096) * 4096
    if gated:  # the weights' bytes are those of an expert without biases
        assert np.array_equal(record.parts[0][:end], plain.parts[0][:end])
        assert all(np.array_equal(a, b) for a, b in zip(record.parts[1:4], plain.parts[1:4], strict=True))
    for part, at in ((0, end), (4, 2 * 64 * (wide + 96))):
        stored = np.concatenate([*record.biases, np.zeros(0, np.float32)])
        assert np.array_equal(record.parts[part][at : at + biases].view("<f4"), stored)
        assert not record.parts[part][at + biases :].any()


def test_an_expert_without_a_gate_has_the_panels_of_the_others():
    """Up and down are encoded row by row: leaving the gate out changes neither their codes nor what is decoded."""
    with_gate, without = encode(ExpertSpec(96), 64, 1), ExpertSpec(96, gated=False)
    rng = np.random.default_rng(1)
    matrices, _ = source(rng, ExpertSpec(96), 64)
    encoder = ExpertEncoder(0, 1, 64, 96, 4, bf16=True, gated=without.gated)
    encoder.add_rows(1, 0, matrices[1], "f32")
    encoder.add_rows(2, 0, matrices[2], "f32")
    encoder.finish()
    segments = [encoder.segment(i) for i in range(4)]
    for tier in (2, 4, 6, 8):
        both = reference.decode_expert(with_gate.parts, 64, 96, tier)[1:]
        alone = reference.decode_expert(segments, 64, 96, tier, gated=False)
        assert all(np.array_equal(a, b) for a, b in zip(both, alone, strict=True))
    exact = reference.decode_bf16(encoder.bf16(), 64, 96, gated=False)
    assert all(
        np.array_equal(a, b) for a, b in zip(reference.decode_bf16(with_gate.parts[4], 64, 96)[1:], exact, strict=True)
    )
    assert encoder.errors().keys() == {2, 4, 6, 8, 16}


def test_wrong_calls_of_the_encoder_are_refused():
    rows, bias = np.zeros((32, 64), np.float32), np.zeros(32, np.float32)
    plain = ExpertEncoder(0, 0, 64, 32, 1)
    with pytest.raises(ValueError, match="up bias: these experts have no biases"):
        plain.add_bias(1, bias)
    encoder = ExpertEncoder(0, 0, 64, 32, 1, gated=False, bias=True)
    for call in (lambda: encoder.add_rows(0, 0, rows, "f32"), lambda: encoder.add_bias(0, bias)):
        with pytest.raises(ValueError, match="these experts have no gate matrix"):
            call()
    encoder.add_rows(1, 0, rows, "f32")
    encoder.add_rows(2, 0, np.zeros((64, 32), np.float32), "f32")
    with pytest.raises(ValueError, match="up bias is missing"):
        encoder.finish()
    encoder.add_bias(1, bias)
    with pytest.raises(ValueError, match="up bias was added twice"):
        encoder.add_bias(1, bias)
    with pytest.raises(ValueError, match="down bias: expected 64 numbers, got 32"):
        encoder.add_bias(2, bias)
    with pytest.raises(ValueError, match=r"add_bias: expected C-contiguous float32 \[n\]"):
        encoder.add_bias(2, np.zeros(64))  # type: ignore[arg-type]
    for bad in (np.nan, np.inf, 1e16):
        with pytest.raises(ValueError, match="down bias: number 3 is not finite"):
            encoder.add_bias(2, np.array([0, 0, 0, bad] + [0] * 60, np.float32))
    encoder.add_bias(2, np.zeros(64, np.float32))
    encoder.finish()
    with pytest.raises(ValueError, match=r"add_bias after finish\(\)"):
        encoder.add_bias(1, bias)
    encoder.reset(0, 1)
    with pytest.raises(ValueError, match="row 0 is missing"):
        encoder.finish()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "tanh"}, "activation: expected silu, gelu_tanh or relu2, got 'tanh'"),
        ({"limit": 0.0}, "limit must be above 0"),
        ({"limit": float("nan")}, "limit must be above 0"),
        ({"alpha": 0.0}, "alpha must be above 0 and finite"),
        ({"alpha": float("inf")}, "alpha must be above 0 and finite"),
        ({"up_offset": float("nan")}, "up_offset must be finite"),
    ],
)
def test_impossible_forms_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ExpertKernels(64, 96, 2, 4, **arguments)
