"""Write one case for check_arm.cpp: weights, records, inputs, and what must come out.

The expected outputs come twice: from the numpy reference (compared within its bound) and from this
machine's native kernels (compared bit for bit).
"""

from __future__ import annotations

import sys
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


def build(hidden: int, tokens: int, experts: ExpertSpec) -> bytes:
    intermediate, form = experts.intermediate, {"gated": experts.gated}
    rng = np.random.default_rng(hidden + intermediate + tokens)
    shapes = [(intermediate, hidden)] * (len(experts.matrices) - 1) + [(hidden, intermediate)]
    is_fp4 = experts.codes == "fp4"
    sources = [[(rng.standard_t(5, s) / np.sqrt(s[1])).astype("<f4") for s in shapes] for _ in range(EXPERTS)]
    if is_fp4:
        sources = [[as_fp4(matrix) for matrix in matrices] for matrices in sources]
    biases = [[rng.standard_normal(s[0]).astype("<f4") for s in shapes] for _ in range(EXPERTS * experts.bias)]
    records: list[list[np.ndarray]] = []
    for index, matrices in enumerate(sources):
        encoder = ExpertEncoder(
            0,
            index,
            hidden,
            intermediate,
            2 if is_fp4 else 4,
            bf16=True,
            bias=experts.bias,
            codes=experts.codes,
            **form,
        )
        for matrix, rows in enumerate(matrices, 3 - len(matrices)):
            encoder.add_rows(matrix, 0, rows, "f32")
        for matrix, values in enumerate(biases[index] if experts.bias else (), 3 - len(matrices)):
            encoder.add_bias(matrix, values)
        encoder.finish()
        none = np.empty(0, np.uint8)
        records.append([none if is_fp4 and i in (2, 3) else encoder.segment(i).copy() for i in (0, 1, 2, 3, -1)])

    chosen = np.stack([rng.permutation(EXPERTS)[:TOP_K] for _ in range(tokens)])
    pairs = np.concatenate([np.flatnonzero(chosen.ravel() == n) for n in range(EXPERTS)]).astype("<i4")
    starts = np.cumsum([0] + [int((chosen == n).sum()) for n in range(EXPERTS)]).astype("<i4")
    x = rng.standard_normal((tokens, hidden)).astype("<f4")
    weights = rng.random((tokens, TOP_K), np.float32)

    parts: list[np.ndarray] = [np.array([hidden, intermediate, tokens, EXPERTS, TOP_K], "<i4")]
    parts.append(np.array([experts.gated, experts.bias, ACTIVATIONS.index(experts.activation), is_fp4], "<i4"))
    limit = np.inf if experts.limit is None else experts.limit
    parts.append(np.array([limit, experts.alpha, experts.up_offset], "<f4"))
    parts += [matrix for matrices in sources for matrix in matrices]
    parts += [values for of_expert in biases for values in of_expert]
    parts += [segment for record in records for segment in record]
    parts += [x, weights, starts, pairs]
    kernels = ExpertKernels(hidden, top_k=TOP_K, max_tokens=tokens, **vars(experts))
    for tier in (2, 4, 16) if is_fp4 else TIERS:
        native, table = np.empty_like(x), np.zeros((EXPERTS, 4), np.uint64)
        outputs = []
        for n, record in enumerate(records):
            used = record[4:] if tier == 16 else record[: tier // 2]
            table[n, : len(used)] = [segment.ctypes.data for segment in used]
            decoded = (
                reference.decode_bf16(record[4], hidden, intermediate, **form)
                if tier == 16
                else reference.decode_expert(record, hidden, intermediate, tier, codes=experts.codes, **form)
            )
            own = reference.decode_biases(used[0], hidden, intermediate, tier, **form) if experts.bias else ()
            outputs.append(reference.expert_forward(x, decoded, quantized=tier != 16, experts=experts, biases=own))
        kernels.forward(x, tier, table, starts, pairs, weights, native)
        y = np.stack(outputs)[chosen, np.arange(tokens)[:, None]]
        parts += [(weights[:, :, None] * y).sum(1).astype("<f4"), native]
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
