"""Keys of config.json that published checkpoints carry and that change nothing: which, and with which values.

A family reads the options it has. What it does not read is accepted only if it is listed here: a key that can never
change the logits of a forward pass (`IGNORED`), or an option, of this family or another, whose value leaves it off
(`NEUTRAL`). Anything else is refused by name, unless the user overrides that by ``--ignore-key``.
"""

from __future__ import annotations

from typing import Any

_GENERATION = {
    "max_length", "min_length", "do_sample", "use_cache", "early_stopping", "num_beams", "temperature", "top_k",
    "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "max_new_tokens",
    "encoder_no_repeat_ngram_size", "cache_implementation",
    "bad_words_ids", "num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
    "begin_suppress_tokens", "epsilon_cutoff", "eta_cutoff", "encoder_repetition_penalty", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind",
    "num_beam_groups", "diversity_penalty",
}  # fmt: skip
"""Sampling settings: transformers drops them from a model config, generation_config.json rules."""

_PROVENANCE = {
    "_name_or_path", "_commit_hash", "_from_model_config", "_attn_implementation_autoset", "name_or_path",
    "architectures", "model_type", "transformers_version", "dtype", "torch_dtype", "tokenizer_class", "prefix",
    "attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation",
    "auto_map", "problem_type", "id2label", "label2id", "num_labels", "finetuning_task", "task_specific_params",
    "torchscript", "use_bfloat16", "gradient_checkpointing", "chunk_size_feed_forward", "transformers.js_config",
    "is_decoder", "pad_token_id", "output_attentions", "output_hidden_states", "output_router_logits", "return_dict",
}  # fmt: skip
"""Labels, number types and return types. ``auto_map`` names code that transformers runs only where it is trusted
explicitly; a family of this package is what transformers itself computes for the same model_type."""

_TRAINING = {
    "initializer_range", "attention_dropout", "attention_probs_dropout_prob", "hidden_dropout", "hidden_dropout_prob",
    "embd_pdrop", "resid_pdrop", "classifier_dropout", "router_aux_loss_coef", "router_z_loss_coef",
    "router_jitter_noise", "input_jitter_noise", "aux_loss_alpha", "seq_aux", "ep_size",
}  # fmt: skip
"""What only training, or running on several machines, reads."""

_DRAFTING = {
    "num_nextn_predict_layers", "num_mtp_modules", "mtp_transformer_layers", "use_mtp", "mtp_num_hidden_layers",
    "mtp_use_dedicated_embeddings",
}  # fmt: skip
"""Layers that draft further tokens: transformers loads none of their weights, and no forward pass runs them."""

IGNORED = frozenset(_GENERATION | _PROVENANCE | _TRAINING | _DRAFTING)
"""Keys that cannot change the logits of one forward pass, whatever their value."""

_OFF = (False, None)
_NONE = (0, None)
_ONE = (1, None)
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "is_encoder_decoder": _OFF, "add_cross_attention": _OFF, "cross_attention_hidden_size": (None,),
    "tie_encoder_decoder": _OFF, "pruned_heads": ({}, None), "pretraining_tp": _ONE, "quantization_config": (None,),
    "per_layer_config": (None,), "tie_last_hidden_states": (None,), "decoder_start_token_id": (None,),
    "sep_token_id": (None,),
    # biases
    "attention_bias": _OFF, "qkv_bias": _OFF, "use_qkv_bias": _OFF, "use_bias": _OFF, "mlp_bias": _OFF,
    "lm_head_bias": _OFF,
    # attention
    "use_qk_norm": _OFF, "qk_layernorm": _OFF, "clip_qkv": (None,), "sliding_window": (None,),
    "use_sliding_window": _OFF, "partial_rotary_factor": _ONE, "rope_interleave": _OFF,
    "q_lora_rank": (None,), "kv_lora_rank": (None,), "attention_chunk_size": (None,),
    # experts
    "mlp_only_layers": ([], None), "decoder_sparse_step": _ONE, "moe_layer_freq": _ONE,
    "first_k_dense_replace": _NONE, "shared_expert_intermediate_size": _NONE, "shared_intermediate_size": _NONE,
    "n_shared_experts": _NONE, "num_shared_experts": _NONE, "n_group": _ONE, "topk_group": _ONE,
    "routed_scaling_factor": _ONE, "use_routing_bias": _OFF, "topk_method": ("greedy", None),
    "scoring_func": ("softmax", None),
    # multipliers and caps
    "final_logit_softcapping": (None,), "attn_logit_softcapping": (None,), "logit_scale": _ONE,
    "logits_scaling": _ONE, "embedding_multiplier": _ONE, "residual_multiplier": _ONE,
}  # fmt: skip
"""Options with the values that leave them off, or that say what every family here does."""

_TOOL_MARKS = ("unsloth_",)
"""Beginnings of keys by which tools mark what went through them."""


def is_mark(key: str) -> bool:
    """Whether a key is never read by any model, whatever its value."""
    return key in IGNORED or key.startswith(_TOOL_MARKS)


def is_neutral(key: str, value: Any) -> bool:
    """Whether an option that a family does not read has a value that changes nothing."""
    if key == "layer_types":
        return isinstance(value, list) and all(kind == "full_attention" for kind in value)
    return any(type(value) is type(off) and value == off for off in _spellings(NEUTRAL.get(key, ())))


def _spellings(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Add 1.0 for 1 and the like, but not True for 1."""
    return (*values, *(float(v) for v in values if type(v) is int))
