"""What the installed kernels compute, as digests: encoded records and outputs must be the same on every machine.

usage: python kernels.py     prints {instruction set: {case: SHA-256}} as JSON, for every set this machine has

Weights and inputs come from numpy's frozen generator, so that two machines with two versions of it ask the same.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cpu.kernels import DenseMatrix, ExpertEncoder, ExpertKernels, available_isas
from edge_runtime.base.arrays import F32, U8

EXPERTS, TOP_K, SEGMENTS = 3, 2, 4
TIERS = (2, 4, 6, 8, 16)
SHAPES = ((32, 32, 1), (64, 96, 7), (160, 224, 5), (768, 64, 33))
"""Hidden, intermediate, tokens."""
FORMS = {
    "silu": {},
    "gelu": {"activation": "gelu_tanh", "limit": 0.9},
    "gpt_oss": {"bias": True, "limit": 1.1, "alpha": 1.702, "up_offset": 1.0},
    "relu2_ungated": {"gated": False, "activation": "relu2"},
}
MATRICES = ((48, 64, 32, 0), (48, 64, 8, 32), (48, 64, 4, 32))
"""Outputs, inputs, bits, block of matrices of the trunk."""


def numbers(draw: np.random.RandomState, *shape: int) -> F32:
    """Return numbers between -1 and 1, denser near 0."""
    return ((draw.random_sample(shape) * 2 - 1) ** 3).astype(np.float32)


def encoded(isa: str, hidden: int, intermediate: int, form: dict[str, object]) -> list[list[U8]]:
    """Encode experts; return the segments of each, and its bfloat16 record as the last."""
    gated, bias = bool(form.get("gated", True)), bool(form.get("bias", False))
    draw = np.random.RandomState(hidden + intermediate)
    rows = {0: intermediate, 1: intermediate, 2: hidden}
    records = []
    for number in range(EXPERTS):
        encoder = ExpertEncoder(0, number, hidden, intermediate, SEGMENTS, bf16=True, isa=isa, gated=gated, bias=bias)
        for matrix in range(0 if gated else 1, 3):
            encoder.add_rows(matrix, 0, numbers(draw, rows[matrix], intermediate if matrix == 2 else hidden), "f32")
            if bias:
                encoder.add_bias(matrix, numbers(draw, rows[matrix]))
        encoder.finish()
        records.append([encoder.segment(index).copy() for index in (*range(SEGMENTS), -1)])
    return records


def computed(isa: str, shape: tuple[int, int, int], form: dict[str, object], records: list[list[U8]]) -> dict[int, F32]:
    """Run the experts at every tier; return the weighted sums float32 [tokens, hidden]."""
    hidden, intermediate, tokens = shape
    draw = np.random.RandomState(tokens)
    chosen = np.stack([draw.permutation(EXPERTS)[:TOP_K] for _ in range(tokens)])
    pairs = np.concatenate([np.flatnonzero(chosen.ravel() == n) for n in range(EXPERTS)]).astype(np.int32)
    starts = np.cumsum([0, *((chosen == n).sum() for n in range(EXPERTS))]).astype(np.int32)
    x, weights = numbers(draw, tokens, hidden), draw.random_sample((tokens, TOP_K)).astype(np.float32)
    kernels = ExpertKernels(hidden, intermediate, TOP_K, tokens, isa=isa, **form)
    assert kernels.isa == isa
    found = {}
    for tier in TIERS:
        table = np.zeros((EXPERTS, SEGMENTS), np.uint64)
        for number, record in enumerate(records):
            used = record[-1:] if tier == 16 else record[: tier // 2]
            table[number, : len(used)] = [segment.ctypes.data for segment in used]
        found[tier] = np.empty_like(x)
        kernels.forward(x, tier, table, starts, pairs, weights, found[tier])
        assert np.isfinite(found[tier]).all()
    return found


def matrix_product(isa: str, outputs: int, inputs: int, bits: int, block: int) -> F32:
    """Multiply by a matrix of the trunk, of floats or of codes."""
    draw = np.random.RandomState(bits)
    matrix = DenseMatrix(outputs, inputs, bits, block, isa)
    if bits == 32:
        matrix.put_floats(0, numbers(draw, inputs, outputs))
    else:
        codes = draw.randint(0, 256, (outputs, inputs // block, block * bits // 8)).astype(np.uint8)
        matrix.put_codes(0, codes, numbers(draw, outputs, inputs // block))
    out = np.empty((3, outputs), np.float32)
    matrix.apply(numbers(draw, 3, inputs), out)
    return out


def digests(isa: str) -> dict[str, str]:
    """Return what one instruction set gives, by case."""
    found = {}
    for name, form in FORMS.items():
        for shape in SHAPES:
            records = encoded(isa, *shape[:2], form)
            case = f"{name} {'x'.join(map(str, shape))}"
            found[f"{case} encoded"] = _digest(*(segment for record in records for segment in record))
            for tier, out in computed(isa, shape, form, records).items():
                found[f"{case} at {tier} bits"] = _digest(out)
    for case in MATRICES:
        found[f"matrix of {case[2]} bits"] = _digest(matrix_product(isa, *case))
    return found


def _digest(*arrays: NDArray[Any]) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


if __name__ == "__main__":
    print(json.dumps({isa: digests(isa) for isa in available_isas()}))
