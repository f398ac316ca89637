"""Additive attention masks: which cache slots and which tokens of the chunk a token may see."""

from __future__ import annotations

import numpy as np

from edge_runtime.base.arrays import F32

HIDDEN = np.float32(-30000.0)


def fill_mask(mask: F32, length: int, window: int | None) -> None:
    """Fill float32 [T, S + T] for a chunk at positions length .. length + T - 1.

    Columns 0..S-1 are cache slots, of which the first `length` are in use; columns S.. are the chunk's own tokens. A
    token sees itself and tokens before it, with a window of w only the last w of them, itself included.

    Args:
        mask: overwritten with 0 (visible) and HIDDEN.
        length: tokens in the cache.
        window: sliding window in tokens, or None.
    """
    tokens = mask.shape[0]
    slots = mask.shape[1] - tokens
    mask.fill(HIDDEN)
    for t in range(tokens):
        first = 0 if window is None else max(0, length + t - window + 1)
        mask[t, first:length] = 0
        mask[t, slots + max(0, first - length) : slots + t + 1] = 0
