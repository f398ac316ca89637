"""Write one case for check_arm.cpp: weights, records, inputs, and what must come out.

The expected outputs come twice: from the numpy reference (compared within its bound) and from this
machine's native kernels (compared bit for bit).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime.backends.cpu.kernels import ExpertEncoder, ExpertKernels, reference
from edge_runtime.base.spec import ExpertSpec

EXPERTS, TOP_K, TIERS = 3, 2, (2, 4, 6, 8, 16)


ACTIVATIONS = ("silu", "gelu_tanh", "relu2")


FLOATS = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], "<f4")


def as_fp4(matrix: np.ndarray) -> np.ndarray:
    """Weights as the nearest 4-bit floats times a power of two a group."""
    groups = matrix.reshape(len(matrix), -1, 32)
    powers = np.exp2(np.floor(np.log2(np.abs(groups).max(2, keepdims=True))) - 2)
    nearest = FLOATS[np.abs(np.abs(groups / powers)[..., None] - FLOATS).argmin(-1)]
    return np.asarray(np.copysign(nearest * powers, groups).reshape(matrix.shape), "<f4")


@dataclass(frozen=True)
class Case:
    """What is computed: experts' weights [matrix], biases [matrix or none] and records [segment], and a choice of them."""

    hidden: int
    experts: ExpertSpec
    sources: list[list[np.ndarray]]
    biases: list[list[np.ndarray]]
    records: list[list[np.ndarray]]
    x: np.ndarray
    chosen: np.ndarray
    weights: np.ndarray

    @property
    def is_fp4(self) -> bool:
        return self.experts.codes == "fp4"

    def starts_and_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """The choice by expert, as the kernels take it."""
        by_expert = [np.flatnonzero(self.chosen.ravel() == n) for n in range(EXPERTS)]
        starts = np.cumsum([0] + [len(pairs) for pairs in by_expert])
        return starts.astype("<i4"), np.concatenate(by_expert).astype("<i4")


def encode(index: int, hidden: int, experts: ExpertSpec, matrices: list[np.ndarray], biases: list[np.ndarray]) -> list:
    """A record's four planes, empty where it lacks one, then its bfloat16 tier."""
    is_fp4 = experts.codes == "fp4"
    kind = {"bias": experts.bias, "codes": experts.codes, "gated": experts.gated}
    encoder = ExpertEncoder(0, index, hidden, experts.intermediate, 2 if is_fp4 else 4, bf16=True, **kind)
    first = 3 - len(matrices)
    for matrix, rows in enumerate(matrices, first):
        encoder.add_rows(matrix, 0, rows, "f32")
    for matrix, values in enumerate(biases, first):
        encoder.add_bias(matrix, values)
    encoder.finish()
    none = np.empty(0, np.uint8)
    return [none if is_fp4 and i in (2, 3) else encoder.segment(i).copy() for i in (0, 1, 2, 3, -1)]


def draw_case(hidden: int, tokens: int, experts: ExpertSpec) -> Case:
    """Draw weights, inputs and a choice at random, and encode the weights."""
    rng = np.random.default_rng(hidden + experts.intermediate + tokens)
    inner = (experts.intermediate, hidden)
    shapes = [inner] * (len(experts.matrices) - 1) + [inner[::-1]]
    sources = [[(rng.standard_t(5, s) / np.sqrt(s[1])).astype("<f4") for s in shapes] for _ in range(EXPERTS)]
    if experts.codes == "fp4":
        sources = [[as_fp4(matrix) for matrix in matrices] for matrices in sources]
    biases = [[rng.standard_normal(s[0]).astype("<f4") for s in shapes if experts.bias] for _ in range(EXPERTS)]
    records = [encode(n, hidden, experts, sources[n], biases[n]) for n in range(EXPERTS)]
    chosen = np.stack([rng.permutation(EXPERTS)[:TOP_K] for _ in range(tokens)])
    x = rng.standard_normal((tokens, hidden)).astype("<f4")
    return Case(hidden, experts, sources, biases, records, x, chosen, rng.random((tokens, TOP_K), np.float32))


def expected(case: Case, tier: int) -> np.ndarray:
    """What the numpy reference makes of a case at a tier."""
    sizes, gated = (case.hidden, case.experts.intermediate), case.experts.gated
    outputs = []
    for record in case.records:
        if tier == 16:
            decoded = reference.decode_bf16(record[4], *sizes, gated=gated)
        else:
            decoded = reference.decode_expert(record, *sizes, tier, codes=case.experts.codes, gated=gated)
        first = record[4 if tier == 16 else 0]
        biases = reference.decode_biases(first, *sizes, tier, gated=gated) if case.experts.bias else ()
        outputs.append(
            reference.expert_forward(case.x, decoded, quantized=tier != 16, experts=case.experts, biases=biases)
        )
    y = np.stack(outputs)[case.chosen, np.arange(len(case.x))[:, None]]
    return np.asarray((case.weights[:, :, None] * y).sum(1), "<f4")


def computed(case: Case, tier: int) -> np.ndarray:
    """What this machine's kernels make of it."""
    table, native = np.zeros((EXPERTS, 4), np.uint64), np.empty_like(case.x)
    for n, record in enumerate(case.records):
        used = record[4:] if tier == 16 else record[: tier // 2]
        table[n, : len(used)] = [segment.ctypes.data for segment in used]
    kernels = ExpertKernels(case.hidden, top_k=TOP_K, max_tokens=len(case.x), **vars(case.experts))
    kernels.forward(case.x, tier, table, *case.starts_and_pairs(), case.weights, native)
    return native


def build(hidden: int, tokens: int, experts: ExpertSpec) -> bytes:
    """A case as a file: what check_arm.cpp reads, in its order."""
    case = draw_case(hidden, tokens, experts)
    parts = [np.array([hidden, experts.intermediate, tokens, EXPERTS, TOP_K], "<i4")]
    parts.append(np.array([experts.gated, experts.bias, ACTIVATIONS.index(experts.activation), case.is_fp4], "<i4"))
    limit = np.inf if experts.limit is None else experts.limit
    parts.append(np.array([limit, experts.alpha, experts.up_offset], "<f4"))
    parts += [array for of_experts in (case.sources, case.biases, case.records) for own in of_experts for array in own]
    parts += [case.x, case.weights, *case.starts_and_pairs()]
    for tier in (2, 4, 16) if case.is_fp4 else TIERS:
        parts += [expected(case, tier), computed(case, tier)]
    return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


VARIANTS = {
    "gpt_oss": ExpertSpec(96, bias=True, limit=1.1, alpha=1.702, up_offset=1.0),
    "gelu": ExpertSpec(224, activation="gelu_tanh", limit=0.9),
    "relu2_gated": ExpertSpec(96, activation="relu2", bias=True),
    "relu2": ExpertSpec(64, gated=False, activation="relu2"),
    "gelu_ungated": ExpertSpec(96, gated=False, activation="gelu_tanh", bias=True),
    "silu_ungated": ExpertSpec(32, gated=False, alpha=1.702),
    "fp4": ExpertSpec(96, codes="fp4"),
    "fp4_bias": ExpertSpec(64, gated=False, bias=True, codes="fp4"),
}


def main() -> None:
    folder = Path(sys.argv[1])
    for hidden, intermediate, tokens in ((32, 32, 1), (64, 96, 7), (160, 224, 5), (96, 768, 2), (768, 64, 33)):
        name = f"case_{hidden}x{intermediate}_t{tokens}.bin"
        (folder / name).write_bytes(build(hidden, tokens, ExpertSpec(intermediate)))
    for variant, experts in VARIANTS.items():
        for hidden, tokens in ((32, 1), (64, 5), (160, 34)):
            (folder / f"case_{variant}_{hidden}_t{tokens}.bin").write_bytes(build(hidden, tokens, experts))


if __name__ == "__main__":
    main()
