"""A bundle's quantised matrices as TensorRT takes them: int4 codes under half-precision scales, or half precision.

TensorRT wants positive scales and a zero point of zero. Int4 scales of a bundle carry a sign, so that the largest
weight of a block can use code -8. With s < 0 and q in -8..7

    q s = (-q - 1) |s| + |s|

where -q - 1 is in -8..7 again. So codes of such blocks are inverted bit by bit, and what is missing, |s| times the sum
of a block's inputs, is a second, small product: one number a block instead of 64 or 128 codes. Nothing is rounded that
half precision does not round.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge_runtime.backends.cuda.tensorrt.onnx_bytes import FLOAT, FLOAT16
from edge_runtime.base.arrays import F16, F32, U8, Bools

INT4_BLOCKS = (64, 128)
"""Block sizes that TensorRT's products with int4 weights are documented for."""
_HALF_MAX, _HALF_SMALLEST_NORMAL = 65504.0, 2.0**-14
_AT_ONCE = 4 << 20


class StoredMatrix:
    """A matrix of a bundle: codes in a file, scales in memory.

    Args:
        data: the file.
        offset: of the codes.
        shape: N outputs, K inputs.
        bits: 4 or 8.
        block: inputs under one scale.
        scales: float32 [N, blocks].
    """

    def __init__(self, data: Path, offset: int, shape: tuple[int, int], bits: int, block: int, scales: F32) -> None:
        self.outputs, self.inputs = shape
        self.bits, self.block, self.scales = bits, block, scales
        self._data, self._offset = data, offset

    @property
    def fits_half(self) -> bool:
        """Whether half precision keeps its values to 11 bits of the largest one."""
        largest = float(np.abs(self.scales).max())
        return largest == 0 or _HALF_SMALLEST_NORMAL <= largest <= _HALF_MAX / (1 << (self.bits - 1))

    @property
    def fits_int4(self) -> bool:
        """Whether it can stay in int4."""
        whole = self.inputs % self.block == 0 and self.block in INT4_BLOCKS and self.outputs % 2 == 0
        # `missing_scales` has the sum of a block
        return (
            self.bits == 4 and whole and self.fits_half and float(np.abs(self.scales).max()) <= _HALF_MAX / self.block
        )

    def positive_scales(self) -> F16:
        """Return what int4 codes are multiplied by, float16 [blocks, N]: above zero."""
        least = np.nextafter(np.float16(0), np.float16(1))  # codes under a scale of zero are zeros
        scales: F16 = np.maximum(np.abs(self.scales).T.astype(np.float16), least)
        return scales

    def missing_scales(self) -> F16:
        """Return what the means of a block's inputs are multiplied by and added, float16 [blocks, N]."""
        scales: F16 = np.where(self._inverted(), self.positive_scales() * np.float16(self.block), np.float16(0))
        return scales.astype(np.float16)

    def int4_blocks(self) -> Iterator[bytes]:
        """Yield codes [K, N], two outputs a byte, the even one in the low half."""
        inverted, is_zero = self._inverted(), self._is_zero()
        for i, block in enumerate(self._blocks()):
            low = np.stack((block & 15, block >> 4), axis=-1).reshape(self.outputs, -1).T  # [block, N]
            signed = low ^ 8  # minus the zero point of 8, in four bits
            signed = np.where(inverted[i], signed ^ 15, signed)  # -q - 1
            signed = np.where(is_zero[i], np.uint8(0), signed)
            yield (signed[:, 0::2] | (signed[:, 1::2] << 4)).astype(np.uint8).tobytes()

    def _is_zero(self) -> Bools:
        """Blocks that half precision has no scale for, [blocks, N]."""
        found: Bools = (np.abs(self.scales).astype(np.float16) == 0).T
        return found

    def _inverted(self) -> Bools:
        """Blocks whose scale is below zero, [blocks, N]."""
        found: Bools = (self.scales < 0).T & ~self._is_zero()
        return found

    def float_blocks(self, kind: int) -> Iterator[bytes]:
        """Yield the weights [K, N] in float32 or float16."""
        dtype = {FLOAT: np.float32, FLOAT16: np.float16}[kind]
        for i, block in enumerate(self._blocks()):
            codes = block
            if self.bits == 4:
                codes = np.stack((block & 15, block >> 4), axis=-1).reshape(self.outputs, -1)
            width = min(self.block, self.inputs - i * self.block)  # the last block may be padded
            values = (codes.astype(np.float32) - np.float32(1 << (self.bits - 1))) * self.scales[:, i : i + 1]
            yield np.ascontiguousarray(values[:, :width].T).astype(dtype).tobytes()

    def _blocks(self) -> Iterator[U8]:
        """Yield the codes of all outputs a block of inputs at a time, [N, bytes]."""
        count, packed = self.scales.shape[1], self.block * self.bits // 8
        codes = np.memmap(self._data, np.uint8, "r", self._offset, (self.outputs, count, packed))
        step = max(1, _AT_ONCE // (self.outputs * packed))
        for first in range(0, count, step):
            several = np.ascontiguousarray(codes[:, first : first + step].transpose(1, 0, 2))
            yield from several
