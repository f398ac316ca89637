"""Cases of granitemoeshared: without and with a shared network, published multipliers, tied embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.granitemoe import BASE, MULTIPLIERS, WEIGHTS
from families.rope import rope

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "GraniteMoeSharedConfig"
__all__ = ["CASES", "CONFIG_CLASS", "WEIGHTS"]


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import GraniteMoeSharedConfig

    return GraniteMoeSharedConfig(**{**BASE, "shared_intermediate_size": 48, **options})


CASES = {
    "granitemoeshared": _config,
    "granitemoeshared_multipliers": lambda: _config(**MULTIPLIERS, num_hidden_layers=2),
    "granitemoeshared_none": lambda: _config(shared_intermediate_size=0, num_local_experts=4),
    "granitemoeshared_tied": lambda: _config(
        **MULTIPLIERS, tie_word_embeddings=True, attention_bias=True, **rope("linear", factor=2.0)
    ),
}  # fmt: skip
