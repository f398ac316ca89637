"""Small numbers as checkpoints pack them: integers in 32-bit words, 8- and 4-bit floating point. Pure numpy.

FP8 (E4M3, no infinities) and the OCP Microscaling types (E2M1 elements, E8M0 scales) are as the OCP specifications
"8-bit Floating Point" and "Microscaling Formats" 1.0 define them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

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


def e8m0(codes: NDArray[np.uint8]) -> F32:
    """Return powers of two: 2^(code - 127); 255 is not a number. The smallest, 2^-127, is exact in float32 too."""
    found = np.ldexp(np.float32(1), np.minimum(codes, 254).astype(np.int32) - _E8M0_BIAS)
    return np.asarray(np.where(codes == 255, np.float32(np.nan), found), np.float32)


def nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Unpack [n, c] bytes to [n, 2 c] codes, the low half of a byte first."""
    out = np.empty((len(packed), packed.shape[1], 2), np.uint8)
    np.bitwise_and(packed, 15, out=out[..., 0])
    np.right_shift(packed, 4, out=out[..., 1])
    return out.reshape(len(packed), -1)


def fields(words: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    """Unpack [..., c] words to [..., 32 / bits * c] unsigned integers, lowest bits first; bits divides 8."""
    octets = np.ascontiguousarray(words).astype("<i4", copy=False).view(np.uint8)
    if bits == 8:
        return octets
    per_byte = 8 // bits
    out = np.empty((*octets.shape, per_byte), np.uint8)
    for i in range(per_byte):
        np.bitwise_and(octets >> (bits * i), (1 << bits) - 1, out=out[..., i])
    return out.reshape(*octets.shape[:-1], -1)
