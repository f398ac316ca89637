"""Rotary embeddings of the cases, as transformers' configurations spell them."""

from __future__ import annotations

from typing import Any


def rope(kind: str, **params: float | bool) -> dict[str, Any]:
    """Return the option of a configuration that chooses a kind of rotary embedding."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **params}}


YARN = rope("yarn", factor=4.0, original_max_position_embeddings=256, beta_fast=16.0, beta_slow=2.0)
LLAMA3 = rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=128)
