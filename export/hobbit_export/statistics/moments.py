"""Second moments of what the trunk's matrices get: how errors of a row's weights add up to errors of its output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.backends.cpu.trunk.weights import layer_weight_shapes
from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import ModelSpec
from hobbit_export.statistics.inputs import FOLDER

SEGMENT = 2048
"""Inputs whose products are counted together: a wider matrix has several such squares along its diagonal."""
_NOISE = 0.5
"""Of moments of K inputs counted from n tokens, in units of K / n of their mean."""


def moment_file(layer_idx: int) -> str:
    """Name of a layer's file; the output head's is that behind the last layer."""
    return f"{FOLDER}/layer_{layer_idx:03d}.moments.npz"


def segments_of(inputs: int) -> list[slice]:
    """Cut the inputs of a matrix."""
    return [slice(start, min(start + SEGMENT, inputs)) for start in range(0, inputs, SEGMENT)]


def moment_bytes(spec: ModelSpec) -> int:
    """Bytes of one layer's moments at most: three inputs of each width, as attention, its output and experts have."""
    shapes = [shape for i in range(spec.num_layers) for shape in layer_weight_shapes(spec, i).values()]
    widths = {shape[1] for shape in shapes if len(shape) == 2} | {spec.hidden}
    return 3 * 4 * sum(width * min(width, SEGMENT) for width in widths)


class MomentSums:
    """Adds up moments; matrices that get the very same array share them. `add` is a `Watch` of the reference trunk.

    Args:
        distinct: how many different tokens are counted.

    Attributes:
        counts: whether `add` does anything: text that is held out passes uncounted.
    """

    def __init__(self, distinct: int) -> None:
        self.counts = True
        self._distinct = distinct
        self._last: F32 | None = None
        self._key = ""
        self._shared: dict[str, str] = {}
        self._sums: dict[str, list[F32]] = {}
        self._tokens: dict[str, int] = {}

    def add(self, name: str, x: F32) -> None:
        """Count inputs [T, K] of a matrix."""
        if not self.counts:
            return
        if x is self._last:
            self._shared[name] = self._key
            return
        self._last = x
        self._key = self._shared.setdefault(name, name)
        self._tokens[self._key] = self._tokens.get(self._key, 0) + len(x)
        squares = [x[:, part].T @ x[:, part] for part in segments_of(x.shape[1])]
        if self._key in self._sums:
            for total, square in zip(self._sums[self._key], squares, strict=True):
                total += square
        else:
            self._sums[self._key] = squares

    def save(self, path: Path) -> None:
        """Write a file that `read_moments` reads.

        Few tokens say little about directions that are seldom or alike in size, so that codes fitted to them would be
        worse on other text than plain rounding: their noise is added to the diagonal. Where a text has fewer different
        tokens than a matrix has inputs, the same ones coming again say nothing of the other directions: it counts as
        that many tokens.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {
            f"{key}:{i:04d}": _with_noise(square, self._samples(key, len(square)))
            for key, squares in self._sums.items()
            for i, square in enumerate(squares)
        }
        arrays |= {f"={name}": np.array(key) for name, key in self._shared.items()}
        np.savez(path, **arrays)

    def _samples(self, key: str, inputs: int) -> int:
        """Tokens that count for moments of so many inputs."""
        tokens = self._tokens[key]
        return min(tokens, self._distinct) if self._distinct < inputs else tokens


def _with_noise(square: F32, tokens: int) -> F32:
    found: F32 = square.copy()
    diagonal = np.diagonal(square)
    np.fill_diagonal(found, diagonal + np.float32(_NOISE * len(square) / tokens * diagonal.mean(dtype=np.float64)))
    return found


def read_moments(path: Path) -> Mapping[str, list[F32]]:
    """Return matrix -> moments float32 of each segment of its inputs."""
    with np.load(path, allow_pickle=False) as file:
        squares: dict[str, list[F32]] = {}
        for name in sorted(n for n in file.files if not n.startswith("=")):
            squares.setdefault(name.rpartition(":")[0], []).append(file[name])
        return {name[1:]: squares[str(file[name])] for name in file.files if name.startswith("=")}
