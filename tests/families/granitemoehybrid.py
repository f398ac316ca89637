"""Cases of granitemoehybrid: Mamba-2 and attention without rope, with rope, several groups, attention first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families import granitemoe
from families.granitemoe import BASE, MULTIPLIERS
from families.weights import normal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "GraniteMoeHybridConfig"
# states that forget within a few tokens and such that last
STATES = ((r"A_log$", normal(-1.5, 1.5)), (r"dt_bias$", normal(-0.5, 1.0)), (r"\.D$", normal(1.0, 0.5)))
WEIGHTS = (*STATES, *granitemoe.WEIGHTS)


def _config(**options: Any) -> PreTrainedConfig:
    from transformers import GraniteMoeHybridConfig

    base: dict[str, Any] = {
        **BASE, "shared_intermediate_size": 48, "mamba_n_heads": 8, "mamba_n_groups": 1, "mamba_d_state": 16,
        "mamba_d_head": 24, "num_hidden_layers": 4, "mamba_chunk_size": 16,
        "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    }  # fmt: skip
    return GraniteMoeHybridConfig(**{**base, **options})


CASES = {
    "granitemoehybrid": lambda: _config(**MULTIPLIERS),
    "granitemoehybrid_rope_tied": lambda: _config(
        **MULTIPLIERS, position_embedding_type="rope", tie_word_embeddings=True, attention_bias=True,
        mamba_conv_bias=False,
    ),
    "granitemoehybrid_groups": lambda: _config(
        mamba_n_heads=6, mamba_d_head=32, mamba_n_groups=3, mamba_d_state=24, mamba_d_conv=2, mamba_chunk_size=256,
    ),
    "granitemoehybrid_attention_first": lambda: _config(
        layer_types=["full_attention", "linear_attention"], num_hidden_layers=2, num_experts_per_tok=1, mamba_expand=1,
        mamba_n_heads=4, mamba_d_head="auto",
    ),
}  # fmt: skip
