"""What a router chose for some tokens."""

from __future__ import annotations

from typing import NamedTuple

from edge_runtime.base.arrays import F32, I32


class Routing(NamedTuple):
    """The router's own choice for T tokens at one layer.

    Attributes:
        logits: float32 [T, E].
        topk_ids: int32 [T, K], heaviest first.
        topk_weights: float32 [T, K], as the model combines them.
        token_ids: int32 [T], where the model has layers that choose by them; else None.
    """

    logits: F32
    topk_ids: I32
    topk_weights: F32
    token_ids: I32 | None = None


def first_rows(routing: Routing, count: int) -> Routing:
    """Return the router's choice for the first `count` of its tokens; views."""
    logits, ids, weights, tokens = routing
    return Routing(logits[:count], ids[:count], weights[:count], None if tokens is None else tokens[:count])
