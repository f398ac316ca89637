"""Parts of a model that the kernels compute. What was added to a spec after they were written is found, and refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

_KNOWN: dict[str, str] = {
    "ModelSpec": "family vocab_size hidden rms_eps max_context layers router experts tied_embeddings bos_token_id "
    "eos_token_ids embedding_scale logit_softcap",
    "LayerSpec": "attention sparse dense shared",
    "SoftmaxAttention": "kind num_heads num_kv_heads head_dim rope window qk_norm qkv_bias o_bias clip_qkv scale sinks",
    "MlpSpec": "intermediate gated activation",
    "SharedSpec": "mlp gate",
    "ExpertSpec": "intermediate gated activation bias limit alpha up_offset",
    "RouterSpec": "num_experts top_k score softmax_over normalise norm_epsilon scale selection_bias groups "
    "expert_scale",
    "GroupSpec": "count chosen score",
}
"""Any other field must have the value that changes nothing, its default."""


def unknown_parts(part: Any, where: str) -> Iterator[str]:
    """Yield what a part of a spec asks for that no kernel computes.

    Args:
        part: of a `ModelSpec`.
        where: what it is, for the message.
    """
    for field in fields(part):
        if field.name in _KNOWN[type(part).__name__].split():
            continue
        neutral = field.default if field.default_factory is MISSING else field.default_factory()
        if getattr(part, field.name) != neutral:
            yield f"{where} with {field.name.replace('_', ' ')}"
