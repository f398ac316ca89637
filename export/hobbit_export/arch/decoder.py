"""What all four families share, from config.json to ModelSpec fields: sizes, attention, tokens, sparse layers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import RopeSpec
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.rope import read_rope

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sizes:
    """Fields every family has, under ModelSpec's names."""

    vocab_size: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_eps: float
    max_context: int
    rope: RopeSpec
    top_k: int
    tied_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: list[int]


def read_sizes(reader: ConfigReader, generation: Mapping[str, Any], defaults: Mapping[str, Any]) -> Sizes:
    """Read the common fields; a key missing in config.json takes `defaults` (those of transformers 5).

    Args:
        reader: config.json.
        generation: generation_config.json, whose bos and eos tokens win over config.json's; may be empty.
        defaults: transformers' defaults of the family, under config.json's names.
    """

    def count(key: str) -> int:
        return reader.count(key, defaults[key])

    hidden, heads = count("hidden_size"), count("num_attention_heads")
    vocab, context = count("vocab_size"), count("max_position_embeddings")
    head_dim = reader.count("head_dim", None) if reader.get("head_dim") is not None else hidden // heads
    kv_heads = count("num_key_value_heads") if _given(reader, "num_key_value_heads", defaults) else heads
    eos = _token(reader, generation, "eos_token_id", defaults)
    bos = _token(reader, generation, "bos_token_id", defaults)
    return Sizes(
        vocab_size=vocab,
        hidden=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        rms_eps=reader.number("rms_norm_eps", defaults["rms_norm_eps"]),
        max_context=context,
        rope=read_rope(reader, head_dim, context, defaults["rope_theta"]),
        top_k=count("num_experts_per_tok"),
        tied_embeddings=reader.flag("tie_word_embeddings", False),
        bos_token_id=next(iter(_in_vocab(bos, vocab, "bos_token_id")), None),
        eos_token_ids=_in_vocab(eos, vocab, "eos_token_id"),
    )


def read_num_experts(reader: ConfigReader, default: int, *spellings: str) -> int:
    """Read the number of experts, which some families spell in two ways; both may be given if they agree."""
    given = {key: reader.get(key) for key in spellings if reader.get(key) is not None}
    if len({repr(v) for v in given.values()}) > 1:
        raise ConfigError(f"{reader.where}: {' and '.join(given)}: expected the same number, got {given}.")
    return reader.count(next(iter(given), spellings[0]), default)


def is_sparse(reader: ConfigReader, num_layers: int) -> list[bool]:
    """Which layers route to experts, by `decoder_sparse_step` and `mlp_only_layers`."""
    step = reader.count("decoder_sparse_step", 1)
    dense = reader.get("mlp_only_layers")
    dense = [] if dense is None else dense
    if not isinstance(dense, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in dense):
        raise ConfigError(f"{reader.where}: mlp_only_layers: expected a list of layer numbers, got {str(dense)[:60]}.")
    return [i not in dense and (i + 1) % step == 0 for i in range(num_layers)]


def read_window(reader: ConfigReader, default: int | None) -> int | None:
    """Read `sliding_window` in tokens, or None for full attention."""
    value = reader.get("sliding_window", default)
    return None if value is None else reader.count("sliding_window", None)


def _given(reader: ConfigReader, key: str, defaults: Mapping[str, Any]) -> bool:
    return reader.get(key, defaults[key]) is not None


def _token(reader: ConfigReader, generation: Mapping[str, Any], key: str, defaults: Mapping[str, Any]) -> list[int]:
    value, where = reader.get(key, defaults[key]), reader.where
    if generation.get(key) is not None:
        value, where = generation[key], "generation_config.json"
    tokens = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(t, int) and not isinstance(t, bool) for t in tokens):
        raise ConfigError(f"{where}: {key}: expected token numbers, got {str(value)[:60]}.")
    return tokens


def _in_vocab(tokens: list[int], vocab: int, key: str) -> list[int]:
    """Drop tokens the model can never produce (templates and defaults carry them)."""
    kept = [t for t in tokens if 0 <= t < vocab]
    if kept != tokens:
        _log.warning("%s: %s lies outside the vocabulary of %d and is dropped", key, tokens, vocab)
    return kept
