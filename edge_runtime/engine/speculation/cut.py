"""Which drafts of a pass can run at a layer without a read of their own. Pure."""

from __future__ import annotations

from edge_runtime.base.arrays import I32, Bools


def rows_served(topk_ids: I32, drawn: int, resident: Bools) -> int:
    """Return how many tokens of a pass, from the first on, can go on.

    All that were drawn do. A draft does if the experts it needs are in memory, or are read for the drawn tokens anyway,
    and every draft before it goes on too: its keys and values are what the next one looks at.

    Args:
        topk_ids: int32 [T, K], the experts of each token.
        drawn: of the T, those that are no drafts; they come first.
        resident: bool [E], experts in memory.
    """
    there = resident.copy()
    there[topk_ids[:drawn].ravel()] = True
    lacks = ~there[topk_ids[drawn:]].all(axis=1)
    return drawn + (int(lacks.argmax()) if lacks.any() else len(lacks))
