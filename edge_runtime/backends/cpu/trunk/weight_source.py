"""Where dense weights come from, whatever holds them."""

from __future__ import annotations

from typing import Protocol

from edge_runtime.base.arrays import F32


class TrunkWeights(Protocol):
    """Source of dense weights by canonical name, in float32, matrices as [out, in]."""

    def get(self, name: str) -> F32:
        """Return a whole tensor."""
        ...

    def rows(self, name: str, start: int, stop: int) -> F32:
        """Return rows start to stop of a matrix, without reading the rest."""
        ...
