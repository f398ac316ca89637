"""MemoryRent: what a byte of the expert cache is worth to those who would have to leave for a new one."""

from __future__ import annotations

_MEMORY = 1 / 16


class OpportunityCost:
    """Nats a byte: the loss the residents are expected to save, on average, while some of them have to leave.

    As long as there is room a new expert costs its bytes only. Once others leave for it, uses to come count only as
    far as they save more than those of an average resident would have. The average, not the least valuable one: with
    the latter, experts that are used now and then take turns in the last places, and are read again each time.

    Args:
        num_layers: L. One of them is looked at in each pass, in turn.
        horizon: tokens ahead for which savings count.
    """

    def __init__(self, num_layers: int, horizon: float) -> None:
        self._num_layers, self._horizon = num_layers, horizon
        self._turn = 0
        self._worth = 0.0
        self._read = self._grown = 0.0
        self._resident_before = 0.0

    @property
    def nats_a_byte(self) -> float:
        """Present value."""
        displaced = 1 - self._grown / self._read if self._read > 0 else 0.0
        return self._horizon * self._worth * min(max(displaced, 0.0), 1.0)

    def is_turn_of(self, layer_idx: int) -> bool:
        """Whether `look` is wanted for this layer in this pass."""
        return layer_idx == self._turn

    def look(self, worth: float | None) -> None:
        """Take the residents of a layer into account: nats a token that a byte of them saves, on average."""
        if worth is not None:
            self._worth += _MEMORY * (worth - self._worth)

    def settle(self, read_bytes: float, resident_bytes: float) -> None:
        """A pass is over: what was read beyond what the residents grew by has displaced others."""
        self._read += _MEMORY * (read_bytes - self._read)
        self._grown += _MEMORY * (resident_bytes - self._resident_before - self._grown)
        self._resident_before = resident_bytes
        self._turn = (self._turn + 1) % self._num_layers
