"""What do the tiers lose of weights that come from 4 or 8 bits? Relative error of weights, measured by the encoder.

    python benchmarks/source_rounding.py [--seed 0]

Weights are random: Student-t with 5 degrees of freedom, and normal. Each source is rounded to its nearest values, as a
format without calibration would. `source` is its error against the weights before; each tier's is against the source;
`4 in all` is that of tier 4 against the weights before.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from edge_runtime.backends.cpu.kernels import ExpertEncoder
from edge_runtime.base.arrays import F32

HIDDEN, INTERMEDIATE = 1024, 512
E2M1 = np.array([-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6])


def integers(bits: int, group: int, *, symmetric: bool) -> Callable[[F32], F32]:
    """GPTQ, AWQ and compressed-tensors: whole steps around a zero point."""

    def rounded(w: F32) -> F32:
        x, top = w.reshape(len(w), -1, group), (1 << bits) - 1
        low, high = np.minimum(x.min(-1, keepdims=True), 0), np.maximum(x.max(-1, keepdims=True), 0)
        step = 2 * np.maximum(high, -low) / top if symmetric else (high - low) / top
        step = step.astype(np.float16).astype(np.float32)
        zero = np.full_like(step, (top + 1) // 2) if symmetric else np.rint(-low / step)
        return ((np.clip(np.rint(x / step) + zero, 0, top) - zero) * step).reshape(w.shape)

    return rounded


def e2m1(group: int, scale: Callable[[F32], F32]) -> Callable[[F32], F32]:
    """MXFP4 and NVFP4: 4-bit floating point times a scale a group."""

    def rounded(w: F32) -> F32:
        x = w.reshape(len(w), -1, group)
        step = scale(np.abs(x).max(-1, keepdims=True))
        return (E2M1[np.abs((x / step)[..., None] - E2M1).argmin(-1)] * step).reshape(w.shape).astype(np.float32)

    return rounded


SOURCES: dict[str, Callable[[F32], F32]] = {
    "bfloat16": lambda w: w,
    "4 bits, 128, symmetric": integers(4, 128, symmetric=True),
    "4 bits, 128, zero points": integers(4, 128, symmetric=False),
    "4 bits, 32, zero points": integers(4, 32, symmetric=False),
    "8 bits, 128": integers(8, 128, symmetric=True),
    "MXFP4": e2m1(32, lambda top: np.exp2(np.floor(np.log2(top)) - 2)),
    "NVFP4": e2m1(16, lambda top: (top / 6).astype(np.float16).astype(np.float32)),
}


def tiers(matrices: list[F32]) -> dict[int, float]:
    """Relative error of each tier of an expert."""
    encoder = ExpertEncoder(0, 0, HIDDEN, INTERMEDIATE, 4)
    for number, rows in enumerate(matrices):
        encoder.add_rows(number, 0, np.ascontiguousarray(rows, np.float32), "f32")
    encoder.finish()
    return encoder.errors()


def relative(found: list[F32], wanted: list[F32]) -> float:
    """Root of the summed squares of the difference, next to that of what is wanted."""
    off = sum(float(np.square(a - b).sum()) for a, b in zip(found, wanted, strict=True))
    return float(np.sqrt(off / sum(float(np.square(b).sum()) for b in wanted)))


def main() -> None:
    """Print a table for each distribution."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    rng = np.random.default_rng(parser.parse_args().seed)
    shapes = [(INTERMEDIATE, HIDDEN), (INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)]
    draws = {
        "Student-t (5)": lambda shape: rng.standard_t(5, shape),
        "normal": lambda shape: rng.standard_normal(shape),
    }
    for name, draw in draws.items():
        weights = [(0.02 * draw(shape)).astype(np.float32) for shape in shapes]
        print(f"{name:<26}{'source':>8}{'2':>8}{'4':>8}{'6':>8}{'8':>8}{'4 in all':>10}")
        for source, rounded in SOURCES.items():
            values = [rounded(w) for w in weights]
            own, errors = relative(values, weights), tiers(values)
            row = "".join(f"{errors[tier]:>8.4f}" for tier in (2, 4, 6, 8))
            print(f"{source:<26}{own:>8.4f}{row}{np.hypot(own, errors[4]):>10.4f}")


if __name__ == "__main__":
    main()
