"""What every attention offers the trunk: its weights, what its graph needs, and itself in plain numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from edge_runtime.backends.cpu.trunk.weight_source import TrunkWeights
from edge_runtime.base.arrays import F32

Shapes = dict[str, tuple[int, ...]]
Watch = Callable[[str, F32], None]


class Growth(NamedTuple):
    """How many numbers the largest value of a graph may have: as many as `scratch_bytes` counts on.

    Attributes:
        token: for each token.
        pair: for each token and each token it may attend to.
        cached: for each cached token.
        fixed: on top, however many tokens there are.
        beside: what a token may attend to besides tokens: 1 with sinks.
    """

    token: int
    pair: int = 0
    cached: int = 0
    fixed: int = 0
    beside: int = 0

    def largest(self, tokens: int, cached: int) -> int:
        """Return it for T tokens behind so many cached ones."""
        attended = tokens + cached + self.beside
        return max(tokens * self.token + self.fixed, tokens * attended * self.pair, cached * self.cached)

    def at_least(self, token: int) -> Growth:
        """Return it with at least so many numbers for each token."""
        return self._replace(token=max(self.token, token))


class LayerRun(NamedTuple):
    """A layer's attention over a chunk.

    Attributes:
        attention: the layer's.
        prefix: its weights' names start with this (``layers.3.``).
        weights: by name.
        eps: of RMS norms.
        angles: cos and sin [T, R/2] of its rope; None without one.
        mask: [T, N + T]: what a token sees of N cached ones and of the chunk; None where the kind has no mask.
        past: the layer's arrays after N tokens by name: growing ones [G, N, C], fixed ones as they are.
        watch: is told a matrix' name and its inputs [T, K].
    """

    attention: Any
    prefix: str
    weights: TrunkWeights
    eps: float
    angles: tuple[F32, F32] | None
    mask: F32 | None
    past: Mapping[str, F32]
    watch: Watch | None = None

    def get(self, name: str) -> F32:
        """Return a weight of the layer."""
        return self.weights.get(self.prefix + name)

    def linear(self, x: F32, name: str) -> F32:
        """Multiply by a matrix of the layer."""
        if self.watch is not None:
            self.watch(self.prefix + name, x)
        product: F32 = x @ self.get(name).T
        return product

    def norm(self, x: F32, name: str) -> F32:
        """RMS norm over the last axis, with a weight of the layer."""
        return rms_norm(x, self.get(name), self.eps)

    def rotate(self, x: F32) -> F32:
        """Apply the layer's rotary embedding to [..., T, C]: to the first R numbers, as two halves or in pairs."""
        if self.angles is None:
            return x
        cos, sin = self.angles
        out: F32 = x.copy()
        half = cos.shape[1]
        first, second = slice(half), slice(half, 2 * half)
        if self.attention.rope.pairs:
            first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
        a, b = x[..., first], x[..., second]
        out[..., first], out[..., second] = a * cos - b * sin, b * cos + a * sin
        return out


def causal_taps(layer: LayerRun, x: F32, taps: F32) -> tuple[F32, dict[str, F32]]:
    """Convolve each channel of x [T, n] with its taps [K, n] over the last K tokens.

    Returns:
        The result [T, n], and what the next chunk needs: the last K - 1 inputs as ``conv``.
    """
    kernel = len(taps)
    window = np.concatenate((layer.past["conv"], x)) if kernel > 1 else x
    out = sum(window[j : j + len(x)] * taps[j] for j in range(kernel))
    return np.asarray(out, np.float32), {"conv": window[len(x) :]} if kernel > 1 else {}


class Mixer(Protocol):
    """A kind of attention as the trunk sees it; a module is one. `oracles.MIXERS` lists them.

    Attributes:
        MAX_TOKENS: most tokens of one run of its graph, longer chunks are run in parts; None: any number.
        TABLES: further inputs of its graph that depend on the number of tokens alone, see `oracles.tables`.
    """

    MAX_TOKENS: int | None
    TABLES: tuple[str, ...]

    def problem(self, attention: Any) -> str | None:
        """Say which of its options does not run yet."""
        ...

    def weight_shapes(self, attention: Any, hidden: int) -> Shapes:
        """Name -> shape of its weights."""
        ...

    def growth(self, attention: Any, hidden: int) -> Growth:
        """What its part of a layer's graph computes."""
        ...

    def run(self, layer: LayerRun, x: F32) -> tuple[F32, dict[str, F32]]:
        """Compute float32 [T, D] for normed x [T, D].

        Returns:
            The output, and by name the layer's arrays: of growing ones the chunk's part [G, T, C], fixed ones whole.
        """
        ...


def rms_norm(x: F32, gamma: F32 | np.float32, eps: float) -> F32:
    """Return x / sqrt(mean(x^2) + eps) * gamma over the last axis."""
    mean = np.mean(x * x, axis=-1, keepdims=True)
    normed: F32 = x / np.sqrt(mean + np.float32(eps)) * gamma
    return normed
