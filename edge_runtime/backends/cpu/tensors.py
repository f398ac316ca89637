"""Tensors of the CPU backend are float32 arrays: the arithmetic between trunk and kernels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from edge_runtime.base.arrays import F32


class HostTensors:
    """Implements `TensorOps`."""

    def join(self, parts: Sequence[F32]) -> F32:
        """See `TensorOps.join`: a copy unless there is one part."""
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def split(self, whole: F32, rows: Sequence[int]) -> list[F32]:
        """See `TensorOps.split`: views."""
        return [whole] if len(rows) == 1 else np.split(whole, list(accumulate(rows))[:-1])

    def add(self, into: F32, more: F32) -> None:
        """See `TensorOps.add`."""
        into += more

    def to_host(self, tensor: F32) -> F32:
        """See `TensorOps.to_host`: it is there."""
        return tensor
