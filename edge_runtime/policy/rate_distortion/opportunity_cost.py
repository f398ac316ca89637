"""What a byte of the expert cache costs because residents are evicted for it: the loss they would have saved."""

from __future__ import annotations

_SMOOTHING = 1 / 16


class OpportunityCost:
    """Loss that residents would have saved with the bytes they give up, in nats a byte.

    While there is free room, a new expert costs its bytes only. Once residents are evicted for it, its future uses
    count only as far as they save more than those of an average resident would have. The average is taken, not the
    least valuable resident: with the latter, experts that are used now and then keep evicting each other, and are read
    again each time.

    Args:
        num_layers: L. One layer is observed in each pass, round and round.
        horizon: tokens ahead whose uses count.
    """

    def __init__(self, num_layers: int, horizon: float) -> None:
        self._num_layers, self._horizon = num_layers, horizon
        self._observed = 0
        self._value = 0.0  # nats a token that a byte of the residents saves
        self._read = self._grown = 0.0  # bytes a pass reads, and by how many the residents grow
        self._resident_before = 0.0

    @property
    def nats_a_byte(self) -> float:
        """Present value: what a byte saves within the horizon, times the share of bytes read that evict others."""
        displaced = 1 - self._grown / self._read if self._read > 0 else 0.0
        return self._horizon * self._value * min(max(displaced, 0.0), 1.0)

    def is_observed(self, layer_idx: int) -> bool:
        """Whether `observe` is wanted for this layer in this pass."""
        return layer_idx == self._observed

    def observe(self, value: float | None) -> None:
        """Note what a byte of a layer's residents saves on average, in nats a token; None: there are none."""
        if value is not None:
            self._value += _SMOOTHING * (value - self._value)

    def end_pass(self, read_bytes: float, resident_bytes: float) -> None:
        """A pass is over: what was read beyond what the residents grew by has evicted others."""
        self._read += _SMOOTHING * (read_bytes - self._read)
        self._grown += _SMOOTHING * (resident_bytes - self._resident_before - self._grown)
        self._resident_before = resident_bytes
        self._observed = (self._observed + 1) % self._num_layers
