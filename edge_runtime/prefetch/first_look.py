"""FirstLook: whether experts that a token's embedding names for the first layer are worth reading. Pure."""

from __future__ import annotations

from collections.abc import Collection

_LEAST = 0.5
"""Share of them that must have been used: a wrong one costs the drive what a right one saves at most."""
_KEPT = 1 - 1 / 16
"""Of what was counted, from one look to the next."""
_PAUSE = 8


class FirstLook:
    """Counts how many of those that lacked were used.

    How much an embedding says of the first router differs from model to model: attention lies in between. While it
    says too little nothing is read, and only every eighth pass looks whether that has changed.
    """

    def __init__(self) -> None:
        self._right, self._all = 0.0, 0.0
        self._lacking: Collection[int] = ()
        self._layer_idx, self._passes = -1, 0

    @property
    def is_on(self) -> bool:
        """Whether to read what lacks."""
        return self._right >= _LEAST * self._all

    @property
    def is_due(self) -> bool:
        """Whether to look in this pass."""
        return self.is_on or self._passes >= _PAUSE

    def begin_pass(self) -> None:
        """A pass begins."""
        self._passes += 1

    def expect(self, layer_idx: int, lacking: Collection[int]) -> None:
        """The first layer is expected to use experts that are not in memory."""
        self._layer_idx, self._lacking, self._passes = layer_idx, lacking, 0

    def see(self, layer_idx: int, used: Collection[int]) -> None:
        """A layer has chosen; only the one expected matters."""
        if layer_idx == self._layer_idx and self._lacking:
            right = len(set(self._lacking).intersection(used))
            self._right, self._all = self._right * _KEPT + right, self._all * _KEPT + len(self._lacking)
        self._lacking = ()
