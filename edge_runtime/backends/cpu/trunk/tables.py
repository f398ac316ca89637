"""Constant inputs of recurrent layers' graphs: triangles that depend on nothing but the number of tokens."""

from __future__ import annotations

from functools import cache

import numpy as np

from edge_runtime.base.arrays import F32

MAX_BLOCK = 32
"""Most tokens a recurrence is solved for at once."""
LEVELS = 5
"""Doublings from one token to `MAX_BLOCK`."""
TABLE_DIMS: dict[str, tuple[int | str, ...]] = {"causal": ("T", "T"), "levels": (1 + LEVELS, "T", "T")}
"""Shapes of the tables by name, T being tokens."""


@cache
def table(name: str, tokens: int) -> F32:
    """Return a table for T tokens, to be read only.

    ``causal`` [T, T] is 1 where a token sees another, itself included. ``levels`` [6, T, T] cuts that into the token
    itself, and for j = 0 .. 4 the tokens before it in the same block of 2^(j+1) tokens but another one of 2^j.
    """
    t = np.arange(tokens)
    before = t[:, None] > t[None]
    if name == "causal":
        return (before | np.eye(tokens, dtype=bool)).astype(np.float32)
    same = [t[:, None] >> j == t[None] >> j for j in range(LEVELS + 1)]
    levels = [before & same[j + 1] & ~same[j] for j in range(LEVELS)]
    return np.stack([np.eye(tokens, dtype=bool), *levels]).astype(np.float32)
