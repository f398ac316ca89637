"""Write one case for check_arm.cpp: weights, records, inputs, and what must come out.

The expected outputs come twice: from the numpy reference (compared within its bound) and from this
machine's native kernels (compared bit for bit).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from edge_runtime.backends.cpu.kernels import ExpertEncoder, ExpertKernels, reference

EXPERTS, TOP_K, TIERS = 3, 2, (2, 4, 6, 8, 16)


def build(hidden: int, intermediate: int, tokens: int) -> bytes:
    rng = np.random.default_rng(hidden + intermediate + tokens)
    shapes = [(intermediate, hidden)] * 2 + [(hidden, intermediate)]
    sources = [[(rng.standard_t(5, s) / np.sqrt(s[1])).astype("<f4") for s in shapes] for _ in range(EXPERTS)]
    records: list[list[np.ndarray]] = []
    for index, matrices in enumerate(sources):
        encoder = ExpertEncoder(0, index, hidden, intermediate, 4, bf16=True)
        for matrix, rows in enumerate(matrices):
            encoder.add_rows(matrix, 0, rows, "f32")
        encoder.finish()
        records.append([encoder.segment(i).copy() for i in (0, 1, 2, 3, -1)])

    chosen = np.stack([rng.permutation(EXPERTS)[:TOP_K] for _ in range(tokens)])
    pairs = np.concatenate([np.flatnonzero(chosen.ravel() == n) for n in range(EXPERTS)]).astype("<i4")
    starts = np.cumsum([0] + [int((chosen == n).sum()) for n in range(EXPERTS)]).astype("<i4")
    x = rng.standard_normal((tokens, hidden)).astype("<f4")
    weights = rng.random((tokens, TOP_K), np.float32)

    parts: list[np.ndarray] = [np.array([hidden, intermediate, tokens, EXPERTS, TOP_K], "<i4")]
    parts += [matrix for matrices in sources for matrix in matrices]
    parts += [segment for record in records for segment in record]
    parts += [x, weights, starts, pairs]
    kernels = ExpertKernels(hidden, intermediate, TOP_K, tokens)
    for tier in TIERS:
        native, table = np.empty_like(x), np.zeros((EXPERTS, 4), np.uint64)
        outputs = []
        for n, record in enumerate(records):
            used = record[4:] if tier == 16 else record[: tier // 2]
            table[n, : len(used)] = [segment.ctypes.data for segment in used]
            decode = reference.decode_bf16 if tier == 16 else None
            decoded = (
                decode(record[4], hidden, intermediate)
                if decode
                else reference.decode_expert(record, hidden, intermediate, tier)
            )
            outputs.append(reference.expert_forward(x, decoded, quantized=tier != 16))
        kernels.forward(x, tier, table, starts, pairs, weights, native)
        y = np.stack(outputs)[chosen, np.arange(tokens)[:, None]]
        parts += [(weights[:, :, None] * y).sum(1).astype("<f4"), native]
    return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


def main() -> None:
    folder = Path(sys.argv[1])
    for hidden, intermediate, tokens in ((32, 32, 1), (64, 96, 7), (160, 224, 5), (96, 768, 2), (768, 64, 33)):
        name = f"case_{hidden}x{intermediate}_t{tokens}.bin"
        (folder / name).write_bytes(build(hidden, intermediate, tokens))


if __name__ == "__main__":
    main()
