"""Small numbers as checkpoints pack them: integers in 32-bit words, 8- and 4-bit floating point. Pure numpy.

FP8 (E4M3, no infinities) and the OCP Microscaling types (E2M1 elements, E8M0 scales) are as the OCP specifications
"8-bit Floating Point" and "Microscaling Formats" 1.0 define them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.arrays import F32, I32, U8

E2M1: F32 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""Value of each code."""
_E8M0_BIAS = 127


def _e4m3() -> F32:
    codes = np.arange(256)
    exponent, fraction = (codes >> 3) & 15, codes & 7
    size = np.where(exponent == 0, fraction * 2.0**-9, (8 + fraction) * 2.0 ** (exponent - 10))
    size[(codes & 127) == 127] = np.nan
    return np.where(codes > 127, -size, size).astype(np.float32)


E4M3: F32 = _e4m3()
"""Value of each code; two of them are no numbers."""


def e8m0(codes: U8) -> F32:
    """Return powers of two: 2^(code - 127); 255 is not a number. The smallest, 2^-127, is exact in float32 too."""
    found = np.ldexp(np.float32(1), np.minimum(codes, 254).astype(np.int32) - _E8M0_BIAS)
    return np.asarray(np.where(codes == 255, np.float32(np.nan), found), np.float32)


def _per_byte(values: F32, bits: int) -> NDArray[Any]:
    """Return for each byte the values of the codes in it, lowest bits first, as one element of a wider type."""
    codes = np.arange(256)[:, None] >> (bits * np.arange(8 // bits)) & ((1 << bits) - 1)
    return np.ascontiguousarray(values[codes], np.float32).view({4: np.complex64, 2: np.complex128}[bits]).reshape(-1)


_E2M1_PAIRS = _per_byte(E2M1, 4)
_INTEGERS = {bits: _per_byte(np.arange(1 << bits, dtype=np.float32), bits) for bits in (2, 4)}


def e2m1(packed: U8) -> F32:
    """Return the values [n, 2 c] of E2M1 codes packed two a byte [n, c], the low half first."""
    return np.asarray(_E2M1_PAIRS[packed].view(np.float32))


def integers(words: I32, bits: int) -> F32:
    """Unpack [..., c] words to [..., 32 / bits * c] unsigned integers of 2, 4 or 8 bits, lowest first, as float32."""
    octets = np.ascontiguousarray(words).astype("<i4", copy=False).view(np.uint8)
    return octets.astype(np.float32) if bits == 8 else np.asarray(_INTEGERS[bits][octets].view(np.float32))


def apply_steps(out: F32, scales: F32, zeros: F32 | None, width: int) -> None:
    """Turn codes [n, K] into (code - zero) x scale in place; `width` inputs share a scale and a zero point [n, C]."""
    if scales.shape[1] * width == out.shape[1]:
        blocks = out.reshape(len(out), -1, width)
        if zeros is not None:
            blocks -= zeros[..., None]
        blocks *= scales[..., None]
        return
    for block in range(scales.shape[1]):
        part = out[:, block * width : (block + 1) * width]
        if zeros is not None:
            part -= zeros[:, block, None]
        part *= scales[:, block, None]
