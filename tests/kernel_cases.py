"""Tokens for expert kernels: inputs, which experts each token uses, and the pairs of both grouped by expert."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Case:
    """Attributes: x [N, D], weights and chosen [N, K], starts [E + 1] and pairs [N K], as `ExpertKernels.forward`."""

    x: np.ndarray
    weights: np.ndarray
    chosen: np.ndarray
    starts: np.ndarray
    pairs: np.ndarray


def make_case(tokens: int, hidden: int, seed: int | list[int], *, experts: int, top_k: int) -> Case:
    """Draw a case; every token uses `top_k` different experts."""
    rng = np.random.default_rng(seed)
    chosen = np.stack([rng.permutation(experts)[:top_k] for _ in range(tokens)])
    flat = chosen.ravel()
    pairs = np.concatenate([np.flatnonzero(flat == n) for n in range(experts)]).astype(np.int32)
    starts = np.cumsum([0] + [int((flat == n).sum()) for n in range(experts)]).astype(np.int32)
    x = rng.standard_normal((tokens, hidden)).astype(np.float32)
    return Case(x, rng.random((tokens, top_k), np.float32) + np.float32(0.1), chosen, starts, pairs)
