"""How much memory it takes to keep every expert at a lower tier. Pure arithmetic."""

from __future__ import annotations


def base_slots(full_bytes: int, base_bytes: int, *, all_experts: int, top_k: int) -> int:
    """Return the experts of the full tier whose memory holds every expert at its base.

    The experts that one token uses at a layer fit at the full tier beside it: somebody may ask for them there.

    Args:
        full_bytes: of an expert at the full tier.
        base_bytes: of one at the base.
        all_experts: experts of the model.
        top_k: K.
    """
    least = all_experts * base_bytes + top_k * (full_bytes - base_bytes)
    return -(-least // full_bytes)
