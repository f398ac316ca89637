"""What families share, from config.json to parts of a ModelSpec: sizes, attention, tokens, sparse layers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import SoftmaxAttention
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.rope import ANY_FAMILY, read_rope

_log = logging.getLogger(__name__)
GENERATION = "generation_config.json"


@dataclass(frozen=True)
class Sizes:
    """Fields every family has, under ModelSpec's names."""

    vocab_size: int
    hidden: int
    rms_eps: float
    max_context: int
    tied_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: list[int]


def read_sizes(
    reader: ConfigReader, generation: Mapping[str, Any], defaults: Mapping[str, Any], eps: str = "rms_norm_eps"
) -> Sizes:  # fmt: skip
    """Read the common fields; a key missing in config.json takes `defaults` (those of transformers 5).

    Args:
        reader: config.json.
        generation: generation_config.json; may be empty. Its bos token wins over config.json's, its eos tokens join.
        defaults: transformers' defaults of the family, under config.json's names.
        eps: the family's name of the norms' epsilon.
    """

    def count(key: str) -> int:
        return reader.count(key, defaults[key])

    vocab = count("vocab_size")
    eos = _eos_tokens(reader, generation, defaults)
    bos = _bos_token(reader, generation, defaults)
    return Sizes(
        vocab_size=vocab,
        hidden=count("hidden_size"),
        rms_eps=reader.number(eps, defaults[eps]),
        max_context=count("max_position_embeddings"),
        tied_embeddings=reader.flag("tie_word_embeddings", defaults.get("tie_word_embeddings", False)),
        bos_token_id=next(iter(_in_vocab(bos, vocab, "bos_token_id")), None),
        eos_token_ids=_in_vocab(eos, vocab, "eos_token_id"),
    )


def read_attention(
    reader: ConfigReader,
    sizes: Sizes,
    defaults: Mapping[str, Any],
    *,
    rope_kinds: tuple[str, ...] = ANY_FAMILY,
    **options: Any,
) -> SoftmaxAttention:
    """Read heads and rope of attention over all tokens; `with_window` limits it.

    Args:
        reader: config.json.
        sizes: the model's.
        defaults: as for `read_sizes`; a `partial_rotary_factor` among them says that the family knows such a key.
        rope_kinds: as for `read_rope`.
        **options: further fields of `SoftmaxAttention`.
    """
    heads = reader.count("num_attention_heads", defaults["num_attention_heads"])
    own = defaults.get("head_dim")
    head_dim = reader.count("head_dim", own) if reader.get("head_dim", own) is not None else sizes.hidden // heads
    kv_heads = heads
    if reader.get("num_key_value_heads", defaults["num_key_value_heads"]) is not None:
        kv_heads = reader.count("num_key_value_heads", defaults["num_key_value_heads"])
    rope = read_rope(
        reader, head_dim, sizes.max_context, defaults["rope_theta"], default=defaults.get("rope_parameters"),
        partial=defaults.get("partial_rotary_factor"), kinds=rope_kinds,
    )  # fmt: skip
    attention = SoftmaxAttention("full", heads, kv_heads, head_dim, rope, **options)
    reader.agrees("qkv_bias", attention.qkv_bias)
    reader.agrees("use_qk_norm", attention.qk_norm != "none")
    return attention


def with_window(attention: SoftmaxAttention, window: int | None) -> SoftmaxAttention:
    """Return attention over a window of so many tokens; None: over all."""
    return attention if window is None else replace(attention, kind="sliding", window=window)


def read_num_experts(reader: ConfigReader, default: int, *spellings: str) -> int:
    """Read the number of experts, which some families spell in two ways; both may be given if they agree."""
    given = {key: reader.get(key) for key in spellings if reader.get(key) is not None}
    if len({repr(v) for v in given.values()}) > 1:
        raise ConfigError(f"{reader.where}: {' and '.join(given)}: expected the same number, got {given}.")
    return reader.count(next(iter(given), spellings[0]), default)


def read_top_k(reader: ConfigReader, defaults: Mapping[str, Any]) -> int:
    """Read how many experts a token has."""
    return reader.count("num_experts_per_tok", defaults["num_experts_per_tok"])


def is_sparse(reader: ConfigReader, num_layers: int) -> list[bool]:
    """Which layers route to experts, by `decoder_sparse_step` and `mlp_only_layers`."""
    step = reader.count("decoder_sparse_step", 1)
    dense = reader.get("mlp_only_layers")
    dense = [] if dense is None else dense
    if not isinstance(dense, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in dense):
        raise ConfigError(f"{reader.where}: mlp_only_layers: expected a list of layer numbers, got {str(dense)[:60]}.")
    return [i not in dense and (i + 1) % step == 0 for i in range(num_layers)]


def read_layer_types(
    reader: ConfigReader, num_layers: int, default: Sequence[str], supported: Collection[str]
) -> list[str]:
    """Read what mixes tokens in each layer; entries beyond the last layer say nothing.

    Args:
        reader: config.json.
        num_layers: L.
        default: of a configuration without `layer_types`.
        supported: the kinds that the family has.
    """
    types = reader.get("layer_types")
    types = default if types is None else types
    if not isinstance(types, (list, tuple)) or not {str(each) for each in types} <= set(supported):
        raise reader.refuse("layer_types", types, f"Supported: {', '.join(supported)}.")
    if len(types) < num_layers:
        raise ConfigError(f"{reader.where}: layer_types: expected {num_layers} entries, got {len(types)}.")
    return [*types[:num_layers]]


def read_window(reader: ConfigReader, default: int | None) -> int | None:
    """Read `sliding_window` in tokens, or None for full attention."""
    value = reader.get("sliding_window", default)
    return None if value is None else reader.count("sliding_window", default)


def _bos_token(reader: ConfigReader, generation: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[int]:
    value, where = reader.get("bos_token_id", defaults["bos_token_id"]), reader.where
    if generation.get("bos_token_id") is not None:
        value, where = generation["bos_token_id"], GENERATION
    return _tokens(value, f"{where}: bos_token_id")


def _eos_tokens(reader: ConfigReader, generation: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[int]:
    """Every token that one of the two files says ends a text: a chat model may name its turn's end in either."""
    key = "eos_token_id"
    stated = reader.get(key, None if generation.get(key) is not None else defaults[key])
    both = [*_tokens(generation.get(key), f"{GENERATION}: {key}"), *_tokens(stated, f"{reader.where}: {key}")]
    return list(dict.fromkeys(both))


def _tokens(value: Any, where: str) -> list[int]:
    tokens = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(t, int) and not isinstance(t, bool) for t in tokens):
        raise ConfigError(f"{where}: expected token numbers, got {str(value)[:60]}.")
    return tokens


def _in_vocab(tokens: list[int], vocab: int, key: str) -> list[int]:
    """Drop tokens the model can never produce (templates and defaults carry them)."""
    kept = [t for t in tokens if 0 <= t < vocab]
    if kept != tokens:
        _log.warning("%s: %s lies outside the vocabulary of %d and is dropped", key, tokens, vocab)
    return kept
