"""What one expert is computed with on a GPU, wherever its record lies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cuda.driver import DeviceMemory
from edge_runtime.backends.cuda.gpu import Gpu
from edge_runtime.backends.cuda.launches import ExpertLaunches, Hidden, quantize
from edge_runtime.backends.cuda.memory_probe.sample import HIDDEN, SPEC, TIER, Sample
from edge_runtime.backends.cuda.structures import ACT_GROUP, GROUP, Pairs
from edge_runtime.base.arrays import F32


class Desk:
    """Device memory for one token and one expert.

    Args:
        gpu: the GPU.
        sample: the expert.

    Raises:
        CudaMemoryError: there is no room.
    """

    def __init__(self, gpu: Gpu, sample: Sample) -> None:
        self._gpu, self._sample, self._launches = gpu, sample, ExpertLaunches(gpu.module, HIDDEN, 1, SPEC)
        self._memory: list[DeviceMemory] = []
        try:
            self._x = self._put(sample.x)
            self._groups = self._room(HIDDEN // GROUP * ACT_GROUP.itemsize)
            self._h, self._y = self._room(SPEC.intermediate // GROUP * ACT_GROUP.itemsize), self._room(4 * HIDDEN)
            self._segments, self._zero = self._room(4 * 8), self._put(np.zeros(1, np.int32))
        except BaseException:
            self.close()
            raise

    def compute(self, record: int) -> F32:
        """Compute the sample's expert from its record at a device address; float32 [1, D].

        Raises:
            CudaError: the driver refused, or a kernel failed.
        """
        stream, y = self._gpu.compute, np.empty((1, HIDDEN), np.float32)
        table = np.zeros((1, 4), np.uint64)
        table[0, : len(self._sample.offsets)] = np.uint64(record) + np.array(self._sample.offsets, np.uint64)
        self._segments.write(table, stream)
        self._y.fill(0xFF, stream)  # NaN, where nothing is written
        quantize(self._gpu.module, stream, self._x.address, self._groups.address, HIDDEN // GROUP)
        pairs = Pairs(self._segments.address, self._zero.address, self._zero.address)
        at = Hidden(self._groups.address, self._h.address, self._y.address)
        self._launches.run_pairs(stream, TIER, pairs, 1, at)
        self._y.read(y, stream)
        stream.synchronize()
        return y

    def close(self) -> None:
        """Give the memory back. Safe to call twice."""
        while self._memory:
            self._memory.pop().close()

    def _room(self, nbytes: int) -> DeviceMemory:
        self._memory.append(DeviceMemory(self._gpu.device, nbytes))
        return self._memory[-1]

    def _put(self, array: NDArray[Any]) -> DeviceMemory:
        memory = self._room(array.nbytes)
        memory.write(array, self._gpu.compute)
        return memory
