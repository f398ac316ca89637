"""RequestLog: which expert each layer asked for, at which tier, in which order: what a bound is computed from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edge_runtime.experts.cache import ExpertCache, Resident
from edge_runtime.experts.stream import ReadyBatch


class RequestLog:
    """Requests in the order they came; those of one layer and pass share a step.

    Args:
        num_experts: E; a key is layer_idx * E + expert_idx.
    """

    def __init__(self, num_experts: int) -> None:
        self._num_experts = num_experts
        self._keys: list[NDArray[np.intp]] = []
        self._tiers: list[NDArray[np.uint8]] = []

    def add(self, layer_idx: int, tiers: NDArray[np.uint8]) -> None:
        """Note uint8 [E] tiers asked for by one layer; 0 is not asked for."""
        experts = np.flatnonzero(tiers)
        self._keys.append(layer_idx * self._num_experts + experts)
        self._tiers.append(tiers[experts])

    def steps(self) -> NDArray[np.intp]:
        """Return intp [N], the step of each request."""
        return np.repeat(np.arange(len(self._keys)), [len(keys) for keys in self._keys])

    def keys(self) -> NDArray[np.intp]:
        """Return intp [N], the expert of each request."""
        return np.concatenate([*self._keys, np.empty(0, np.intp)])

    def tiers(self) -> NDArray[np.uint8]:
        """Return uint8 [N], the tier of each request."""
        return np.concatenate([*self._tiers, np.empty(0, np.uint8)])


class LoggingCache(ExpertCache):
    """The runtime's cache, which also notes what it is asked for."""

    log: RequestLog | None = None

    def stream(
        self, layer_idx: int, tiers: NDArray[np.uint8], order: NDArray[np.intp] | None = None
    ) -> Iterator[ReadyBatch]:
        """See `ExpertCache.stream`."""
        if self.log is not None:
            self.log.add(layer_idx, tiers)
        return super().stream(layer_idx, tiers, order)

    def take_resident(
        self, layer_idx: int, tiers: NDArray[np.uint8], order: NDArray[np.intp] | None = None
    ) -> Resident | None:
        """See `ExpertCache.take_resident`."""
        found = super().take_resident(layer_idx, tiers, order)
        if found is not None and self.log is not None:
            self.log.add(layer_idx, tiers)
        return found
