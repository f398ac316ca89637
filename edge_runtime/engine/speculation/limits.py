"""What rules drafts out, in words: they must never change a token."""

from __future__ import annotations

from typing import Any

from edge_runtime.backends.trunk import Trunk
from edge_runtime.base.spec import ModelSpec
from edge_runtime.policy.base import Policy


def why_no_drafts(spec: ModelSpec, trunk: Trunk[Any]) -> str:
    """Return why a model cannot check drafts here; empty if it can.

    Args:
        spec: the model.
        trunk: what computes its dense part.
    """
    for layer_idx in range(spec.num_layers):
        fixed = [array.name for array in spec.state_of(layer_idx) if not array.grows]
        if fixed:
            return f"layer {layer_idx} keeps a state ({', '.join(fixed)}) that cannot be cut behind a wrong draft"
    if trunk.chunk_cuts is None:
        return "this trunk does not promise a token the same bits in a pass of several"
    return ""


def why_not_under(policy: Policy) -> str:
    """Return why nothing is drafted under a policy; empty if something may be.

    A lossy policy serves an expert to all tokens of a pass at one tier, or looks at what passes before this one did: a
    wrong draft would change the tokens beside it.
    """
    return "" if policy.follows_router else f"policy {policy.name!r} decides for the tokens of a pass together"
