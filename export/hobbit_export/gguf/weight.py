"""Weights of GGUF files, read by rows: plain ones in their own type, quantised ones decoded to float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.errors import BundleError
from hobbit_export.checkpoint import Checkpoint
from hobbit_export.gguf.library import decode
from hobbit_export.gguf.types import BY_NAME, DECODED
from hobbit_export.safetensors import DTYPE_BYTES
from hobbit_export.weights import PlainWeight, Weight

_DECODED_WEIGHTS = 1 << 16
"""Decoded at a time: the decoders hold about ten arrays of this length."""


@dataclass(frozen=True)
class BlockWeight(Weight):
    """A tensor of quantised blocks; each row is whole blocks."""

    checkpoint: Checkpoint

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows as float32."""
        kind = BY_NAME[self.checkpoint.tensors[self.name].dtype]
        row_bytes = self.cols // kind.weights * kind.num_bytes
        stored = self.checkpoint.raw_bytes(self.name, start * row_bytes, (stop - start) * row_bytes)
        blocks = np.frombuffer(stored, np.uint8).reshape(-1, kind.num_bytes)
        out = np.empty((stop - start, self.cols), np.float32)
        flat, step = out.reshape(-1, kind.weights), _DECODED_WEIGHTS // kind.weights
        for at in range(0, len(flat), step):
            flat[at : at + step] = decode(blocks[at : at + step], kind.name)
        return out

    def transposed(self) -> Weight:
        """Refuse: rows of blocks cannot be turned, and no adapter of GGUF asks for it."""
        raise BundleError(f"{self.file.name}: tensor {self.name!r}: blocks of weights cannot be read transposed.")


def weight_of(checkpoint: Checkpoint, name: str) -> Weight:
    """Return a tensor of GGUF files as a weight.

    Raises:
        BundleError: its type is not read.
    """
    info = checkpoint.tensors[name]
    if info.dtype in DTYPE_BYTES:
        return PlainWeight.of(checkpoint, name)
    if info.dtype not in DECODED:
        raise BundleError(
            f"{info.file.name}: tensor {name!r}: type {info.dtype} is not read. Give the model in one of F32, F16, "
            f"BF16, {', '.join(DECODED)}."
        )
    row_bytes = 4 * info.cols + 2 * info.num_bytes // info.rows  # what is stored is copied once
    return BlockWeight(
        name, info.file, "F32", info.shape, (name,), info.num_bytes, row_bytes, f"GGUF {info.dtype}", checkpoint
    )
