"""Tensor types of GGUF: the sizes of their blocks, and which of them can be read."""

from __future__ import annotations

from typing import NamedTuple


class TensorType(NamedTuple):
    """How numbers are stored: rows are whole blocks.

    Attributes:
        weights: numbers in a block.
        num_bytes: of a block.
    """

    name: str
    weights: int
    num_bytes: int


_PLAIN = {0: ("F32", 4), 1: ("F16", 2), 24: ("I8", 1), 25: ("I16", 2), 26: ("I32", 4), 27: ("I64", 8), 28: ("F64", 8),
          30: ("BF16", 2)}  # fmt: skip
_BLOCKS = {
    2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 20: ("IQ4_NL", 32, 18), 23: ("IQ4_XS", 256, 136), 39: ("MXFP4", 32, 17),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 29: ("IQ1_M", 256, 56), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
TYPES: dict[int, TensorType] = {
    **{number: TensorType(name, 1, size) for number, (name, size) in _PLAIN.items()},
    **{number: TensorType(*each) for number, each in _BLOCKS.items()},
}
"""Every type a published file may have, by GGUF's number."""

DECODED = (
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4",
)  # fmt: skip
"""Quantised types that are read, as float32."""
BY_NAME = {t.name: t for t in TYPES.values()}
