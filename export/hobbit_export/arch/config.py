"""Strict reading of config.json: every key is used, known not to change inference, or refused by name."""

from __future__ import annotations

from typing import Any

from edge_runtime.base.errors import ConfigError

_GENERATION = frozenset({
    "max_length", "min_length", "do_sample", "use_cache", "early_stopping", "num_beams", "temperature", "top_k",
    "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids", "num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
    "begin_suppress_tokens", "epsilon_cutoff", "eta_cutoff", "encoder_repetition_penalty", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind",
    "num_beam_groups", "diversity_penalty",
})  # fmt: skip
"""Sampling settings: transformers drops them from a model config, generation_config.json rules."""

IGNORED = _GENERATION | {
    "_name_or_path", "_commit_hash", "_from_model_config", "_attn_implementation_autoset", "name_or_path",
    "architectures", "model_type", "transformers_version", "dtype", "torch_dtype", "initializer_range",
    "attention_dropout",
    "router_aux_loss_coef", "router_jitter_noise", "output_router_logits", "output_attentions", "output_hidden_states",
    "return_dict", "pad_token_id", "problem_type", "id2label", "label2id", "num_labels", "finetuning_task",
    "tokenizer_class", "prefix", "chunk_size_feed_forward", "task_specific_params", "torchscript", "use_bfloat16",
    "gradient_checkpointing", "attn_implementation",
}  # fmt: skip
"""Keys that cannot change the logits of one forward pass (training, labels, provenance, return types)."""

_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "is_encoder_decoder": (False,),
    "is_decoder": (True, False),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "tie_encoder_decoder": (False,),
    "pruned_heads": ({},),
    "pretraining_tp": (1, None),
    "quantization_config": (None,),
    "auto_map": (None,),
    "per_layer_config": (None,),
    "tie_last_hidden_states": (None,),
    "mlp_bias": (False,),
}
"""Options with one supported value (or several that mean the same); anything else is refused."""


_TOOL_MARKS = ("unsloth_",)
"""Beginnings of keys by which tools mark what went through them."""


class ConfigReader:
    """Hands out the keys of config.json and remembers which were asked for."""

    def __init__(self, data: dict[str, Any], where: str = "config.json") -> None:
        self.data = data
        self.where = where
        self._used: set[str] = set()

    def refuse(self, key: str, value: object, hint: str = "") -> ConfigError:
        """Build the error for an option this project does not implement."""
        shown = repr(value)
        shown = shown if len(shown) <= 120 else shown[:117] + "..."
        return ConfigError(f"{self.where}: unsupported option {key!r} = {shown}.{' ' + hint if hint else ''}")

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value as it stands, marking the key as used."""
        self._used.add(key)
        return self.data.get(key, default)

    def count(self, key: str, default: int | None, *, minimum: int = 1) -> int:
        """Return a whole number of at least `minimum`; a missing key takes the default."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            got = "nothing" if value is None else repr(value)
            raise ConfigError(f"{self.where}: {key}: expected a whole number of at least {minimum}, got {got[:60]}.")
        return value

    def number(self, key: str, default: float | None) -> float:
        """Return a finite number; a missing key takes the default."""
        return number(self.get(key, default), f"{self.where}: {key}")

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false; a missing key takes the default."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.where}: {key}: expected true or false, got {str(value)[:60]}.")
        return value

    def fixed(self, key: str, *allowed: Any) -> None:
        """Accept a key only if it is absent or has one of these values."""
        if self.get(key, allowed[0]) not in allowed:
            raise self.refuse(key, self.data[key])

    def finish(self, also_ignored: frozenset[str] = frozenset()) -> None:
        """Refuse every key nobody asked for and nobody listed.

        Raises:
            ConfigError: names the key and its value.
        """
        for key, allowed in _FIXED.items():
            if key not in self._used:
                self.fixed(key, *allowed)
        for key, value in self.data.items():
            if key not in self._used and key not in IGNORED | also_ignored and not key.startswith(_TOOL_MARKS):
                raise self.refuse(key, value, "This exporter does not know what it changes.")


def number(value: Any, where: str) -> float:
    """Return value as a finite float, or raise ConfigError naming `where`."""
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    if not usable:  # abs(nan) < x is False, so is abs(inf)
        raise ConfigError(f"{where}: expected a number, got {str(value)[:60]}.")
    return float(value)
