"""What a sparse layer's experts got: a file of the layer's inputs, and which of them each expert is fitted to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_runtime.base.arrays import F32, F64, I32, Indices

FOLDER = "statistics"
ROUTED, SHARED = 64, 32
"""Inputs of an expert: tokens it was chosen for, and tokens of the whole text, which weigh a quarter as much."""


def input_files(layer_idx: int) -> tuple[str, str]:
    """Names of a layer's files: inputs float32 [T, D], and rows int32 [E, `ROUTED`], -1 where there are no more."""
    return f"{FOLDER}/layer_{layer_idx:03d}.x.npy", f"{FOLDER}/layer_{layer_idx:03d}.rows.npy"


def chosen_rows(topk_ids: I32, num_experts: int) -> I32:
    """Rows int32 [E, `ROUTED`] of the tokens each expert was chosen for, evenly over the text; -1 behind them."""
    rows = np.full((num_experts, ROUTED), -1, np.int32)
    for expert_idx in range(num_experts):
        found = np.flatnonzero((topk_ids == expert_idx).any(axis=1))
        kept = found[_evenly(len(found), ROUTED)]
        rows[expert_idx, : len(kept)] = kept
    return rows


def _evenly(count: int, most: int) -> Indices:
    """Return `most` numbers below count, or all of them."""
    return np.arange(count) if count <= most else np.arange(most) * count // most


class LayerInputs:
    """Reads a layer's files, row by row as they are asked for."""

    def __init__(self, folder: Path, layer_idx: int) -> None:
        inputs, rows = (folder / name for name in input_files(layer_idx))
        self._x: F32 = np.load(inputs, mmap_mode="r", allow_pickle=False)
        self._rows: I32 = np.load(rows, allow_pickle=False)
        self._shared = _evenly(len(self._x), SHARED)

    def of(self, expert_idx: int) -> tuple[F64, F64]:
        """Return inputs float64 [N, D] of an expert, and their weights' roots [N, 1]: 2 or 1."""
        chosen = self._rows[expert_idx]
        chosen = chosen[chosen >= 0]
        x = np.concatenate((self._x[chosen], self._x[self._shared])).astype(np.float64)
        return x, np.repeat((2.0, 1.0), (len(chosen), len(self._shared)))[:, None]
