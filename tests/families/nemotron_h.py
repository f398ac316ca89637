"""Cases of nemotron_h: its default order, groups of experts, a dense network, another order without the convolution's bias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from families.granitemoehybrid import STATES
from families.tokenizer import EOS
from families.weights import by_fan_in, normal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_CLASS = "NemotronHConfig"
WEIGHTS = (
    *STATES,
    (r"e_score_correction_bias$", normal(0.0, 0.1)),
    (r"norm_f\.weight$", normal(1.0, 0.15)),
    (r"mixer\.gate\.weight$", by_fan_in(4.0)),
    (r"embeddings\.weight$", lambda tensor, tied: tensor.normal_(0.0, 0.6)),
)


def _config(pattern: str = "MEM*EM", **options: Any) -> PreTrainedConfig:
    from transformers import NemotronHConfig

    base: dict[str, Any] = {
        "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32,
        "moe_shared_expert_intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24,
        "n_routed_experts": 8, "num_experts_per_tok": 3, "ssm_state_size": 16, "mamba_num_heads": 8,
        "mamba_head_dim": 12, "n_groups": 2, "chunk_size": 16, "max_position_embeddings": 1024,
        "pad_token_id": None, "bos_token_id": None, "eos_token_id": EOS, "hybrid_override_pattern": pattern,
        "routed_scaling_factor": 1.0,
    }  # fmt: skip
    return NemotronHConfig(**{**base, **options})


CASES = {
    "nemotron_h": _config,
    "nemotron_h_expert_groups": lambda: _config(
        "ME*E", n_routed_experts=16, n_group=4, topk_group=3, num_experts_per_tok=6, n_groups=4, mamba_head_dim=16,
        routed_scaling_factor=2.5,
    ),
    "nemotron_h_dense": lambda: _config("M-M*-E", norm_topk_prob=False, num_key_value_heads=4, n_groups=1),
    "nemotron_h_attention_first": lambda: _config(
        "*EMME", use_conv_bias=False, conv_kernel=3, num_experts_per_tok=1, ssm_state_size=40
    ),
}  # fmt: skip
