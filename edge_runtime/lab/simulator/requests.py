"""RequestLog: which expert each layer asked for, at which tier, in which order: what a bound is computed from."""

from __future__ import annotations

import numpy as np

from edge_runtime.base.arrays import U8, Indices


class RequestLog:
    """Requests in the order they came; those of one layer and pass share a step.

    Args:
        num_experts: E; a key is layer_idx * E + expert_idx.
    """

    def __init__(self, num_experts: int) -> None:
        self._num_experts = num_experts
        self._layers: list[int] = []
        self._rows: list[bytes] = []

    def add(self, layer_idx: int, tiers: U8) -> None:
        """Note uint8 [E] tiers asked for by one layer; 0 is not asked for."""
        self._layers.append(layer_idx)
        self._rows.append(tiers.tobytes())

    def steps(self) -> Indices:
        """Return intp [N], the step of each request."""
        return self._table().nonzero()[0]

    def keys(self) -> Indices:
        """Return intp [N], the expert of each request."""
        steps, experts = self._table().nonzero()
        return np.array(self._layers, np.intp)[steps] * self._num_experts + experts

    def tiers(self) -> U8:
        """Return uint8 [N], the tier of each request."""
        table = self._table()
        return np.asarray(table[table != 0], np.uint8)

    def _table(self) -> U8:
        return np.frombuffer(b"".join(self._rows), np.uint8).reshape(-1, self._num_experts)
