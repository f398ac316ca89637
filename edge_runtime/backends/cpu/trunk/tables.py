"""Constant inputs of recurrent layers' graphs: triangles that depend on nothing but the number of tokens."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

MAX_BLOCK = 32
"""Most tokens a recurrence is solved for at once."""
LEVELS = 5
"""Doublings from one token to `MAX_BLOCK`."""
TABLE_DIMS: dict[str, tuple[int | str, ...]] = {"causal": ("T", "T"), "levels": (LEVELS, "T", "T")}
"""Shapes of the tables by name, T being tokens."""


@cache
def table(name: str, tokens: int) -> F32:
    """Return a table for T tokens, to be read only.

    ``causal`` [T, T] is 1 where a token sees another, itself included. ``levels`` [5, T, T] cuts the tokens before it
    into blocks: level j is 1 where two tokens share a block of 2^(j+1) tokens but no block of 2^j.
    """
    t = np.arange(tokens)
    if name == "causal":
        return (t[:, None] >= t[None]).astype(np.float32)
    below = t[:, None] > t[None]
    levels = [
        below & (t[:, None] >> j + 1 == t[None] >> j + 1) & (t[:, None] >> j != t[None] >> j) for j in range(LEVELS)
    ]
    return np.stack(levels).astype(np.float32)
