"""Tiny random checkpoints of every supported family and option, as transformers itself writes them. Needs torch.

Weights are scaled so that router and output logits are spread widely: greedy tokens and expert choices are stable
under the rounding noise the tests allow. Every checkpoint has a byte-level tokenizer: ids 0..255 are bytes, 256 ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

EOS = 256


def _mixtral(**options: Any) -> PreTrainedConfig:
    from transformers import MixtralConfig

    base: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 1024,
        "bos_token_id": None, "eos_token_id": EOS,
    }  # fmt: skip
    return MixtralConfig(**{**base, **options})


def _qwen2_moe(**options: Any) -> PreTrainedConfig:
    from transformers import Qwen2MoeConfig

    base: dict[str, Any] = {
        "vocab_size": 300, "hidden_size": 96, "intermediate_size": 144, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6,
        "num_key_value_heads": 2, "num_experts": 6, "num_experts_per_tok": 2, "max_position_embeddings": 1024,
        "eos_token_id": EOS,
    }  # fmt: skip
    return Qwen2MoeConfig(**{**base, **options})


def _qwen3_moe(**options: Any) -> PreTrainedConfig:
    from transformers import Qwen3MoeConfig

    base: dict[str, Any] = {
        "vocab_size": 384, "hidden_size": 128, "intermediate_size": 192, "moe_intermediate_size": 64, "head_dim": 24,
        "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "num_experts": 16,
        "num_experts_per_tok": 4, "max_position_embeddings": 1024, "eos_token_id": EOS,
    }  # fmt: skip
    return Qwen3MoeConfig(**{**base, **options})


def _olmoe(**options: Any) -> PreTrainedConfig:
    from transformers import OlmoeConfig

    base: dict[str, Any] = {
        "vocab_size": 257, "hidden_size": 96, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 3,
        "num_key_value_heads": 3, "num_experts": 8, "num_experts_per_tok": 3, "max_position_embeddings": 1024,
        "pad_token_id": None, "eos_token_id": EOS,
    }  # fmt: skip
    return OlmoeConfig(**{**base, **options})


def _rope(kind: str, **params: float | bool) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **params}}


_YARN = _rope("yarn", factor=4.0, original_max_position_embeddings=256, beta_fast=16.0, beta_slow=2.0)
_LLAMA3 = _rope(
    "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=128
)  # fmt: skip

FAMILY_CASES: dict[str, Callable[[], PreTrainedConfig]] = {
    "mixtral": _mixtral,
    "mixtral_sliding_tied": lambda: _mixtral(
        hidden_size=96, head_dim=32, num_attention_heads=4, num_key_value_heads=1, sliding_window=20,
        tie_word_embeddings=True, num_hidden_layers=3, **_rope("linear", factor=2.0),
    ),
    "mixtral_top1_llama3": lambda: _mixtral(
        hidden_size=192, intermediate_size=160, num_attention_heads=6, num_key_value_heads=6, num_experts_per_tok=1,
        **_LLAMA3,
    ),
    "qwen2_moe": _qwen2_moe,
    "qwen2_moe_sparse_step_dynamic": lambda: _qwen2_moe(
        hidden_size=64, num_attention_heads=4, num_key_value_heads=4, num_hidden_layers=4, decoder_sparse_step=2,
        norm_topk_prob=True, qkv_bias=False, max_position_embeddings=64, **_rope("dynamic", factor=2.0),
    ),
    "qwen2_moe_sliding": lambda: _qwen2_moe(
        num_hidden_layers=3, use_sliding_window=True, sliding_window=12, max_window_layers=3, tie_word_embeddings=True,
        num_experts_per_tok=1,
    ),
    "qwen3_moe": lambda: _qwen3_moe(norm_topk_prob=True),
    "qwen3_moe_mlp_only_yarn": lambda: _qwen3_moe(
        num_hidden_layers=4, mlp_only_layers=[0, 2], tie_word_embeddings=True, num_key_value_heads=4, **_YARN
    ),
    "qwen3_moe_bias_sliding": lambda: _qwen3_moe(
        attention_bias=True, use_sliding_window=True, sliding_window=16, num_key_value_heads=1, head_dim=16,
        num_experts=12, norm_topk_prob=True,
    ),
    "olmoe": _olmoe,
    "olmoe_clip_bias": lambda: _olmoe(
        clip_qkv=0.9, attention_bias=True, num_attention_heads=4, num_key_value_heads=2, hidden_size=128,
        norm_topk_prob=True, tie_word_embeddings=True,
    ),
}  # fmt: skip


def make_model(case: str, seed: int = 0) -> PreTrainedModel:
    """Return the float32 model of a case with random weights, in eval mode, using eager attention."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(FAMILY_CASES[case](), attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            _randomise(name, tensor, tied=bool(model.config.tie_word_embeddings))
    return model


def _randomise(name: str, tensor: torch.Tensor, tied: bool) -> None:
    fan_in = tensor.shape[-1] ** 0.5
    if name.endswith("norm.weight"):
        tensor.normal_(1.0, 0.15)
    elif name.endswith("bias"):
        tensor.normal_(0.0, 0.2)
    elif "embed_tokens" in name:
        tensor.normal_(0.0, 4.0 / fan_in if tied else 0.6)
    elif "lm_head" in name or name.endswith(("mlp.gate.weight", "router.weight")):
        tensor.normal_(0.0, 4.0 / fan_in)
    else:
        tensor.normal_(0.0, 1.0 / fan_in)


def make_checkpoint(
    case: str, out: Path, dtype: str = "bfloat16", seed: int = 0, sharded: bool = False
) -> Path:  # fmt: skip
    """Write the random checkpoint of a case into `out` and return it.

    Args:
        case: a key of FAMILY_CASES.
        out: directory, created if needed.
        dtype: "bfloat16", "float16" or "float32".
        seed: of the weights.
        sharded: write several safetensors files and an index.
    """
    import torch

    model = make_model(case, seed).to(getattr(torch, dtype))
    model.save_pretrained(out, max_shard_size="100KB" if sharded else "5GB")
    write_tokenizer(out)
    return out


def write_tokenizer(out: Path) -> None:
    """Write a byte-level tokenizer without merges: token i is byte i, token 256 is ``<|end|>``."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = _byte_letters()
    tokenizer = Tokenizer(models.BPE(vocab={letters[i]: i for i in range(256)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    tokenizer.save(str(out / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "model_max_length": 1024}
    (out / "tokenizer_config.json").write_text(json.dumps(config))


def _byte_letters() -> list[str]:
    """Return the printable letter GPT-2's byte-level alphabet uses for each byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    other = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(256 + other.index(b)) for b in range(256)]
