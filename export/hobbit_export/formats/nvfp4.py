"""NVFP4: E2M1 codes in blocks of 16 inputs with an E4M3 scale each, and one float scale for the whole weight.

compressed-tensors divides by that scale, ModelOpt multiplies with it; both mean the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import BundleError
from hobbit_export.formats.grid import GridWeight, Scales
from hobbit_export.formats.numbers import e2m1
from hobbit_export.formats.parts import Part, Parts

BLOCK = 16


def nvfp4_weight(parts: Parts, name: str, packed: str, scale: str, outer: str, *, divide: bool) -> GridWeight:
    """Return the weight `name` [N, K].

    Args:
        parts: of the checkpoint.
        name: of the weight.
        packed: tensor of the codes, uint8 [N, K / 2].
        scale: tensor of the blocks' scales, E4M3 [N, K / 16].
        outer: tensor of the whole weight's scale, float32.
        divide: the blocks' scales are divided by the outer one; else multiplied with it.
    """
    codes = parts.codes(packed, ("U8",), (2,))
    n, half = codes.info.shape
    parts.get(packed, ("U8",), (n, -(-2 * half // BLOCK) * BLOCK // 2))
    scales = Scales(parts.get(scale, ("F8_E4M3",), (n, 2 * half // BLOCK)), 1, BLOCK)
    whole = parts.get(outer, ("F32",), (1,), ())
    return GridWeight.of(
        name, (n, 2 * half), "nvfp4", codes, e2m1, scales, whole, outer=_outer(whole, divide=divide)
    )  # fmt: skip


def _outer(whole: Part, *, divide: bool) -> Callable[[F32], F32]:
    def apply(scales: F32) -> F32:
        factor = whole.finite(whole.read().reshape(-1))[0]
        if divide and factor == 0:
            raise BundleError(f"{whole.where}: expected a scale to divide by, got 0. Export a sound checkpoint.")
        return np.asarray(scales / factor if divide else scales * factor)

    return apply
