"""What architectures of GGUF share, from their keys to config.json as transformers has it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import ConfigError
from hobbit_export.gguf.keys import Keys, without_none
from hobbit_export.safetensors import TensorInfo

EMBEDDING, HEAD = "token_embd.weight", "output.weight"


@dataclass(frozen=True)
class ModelKeys:
    """What a family reads its configuration from.

    Attributes:
        keys: of the architecture.
        tensors: all of the files, by name.
        bos_token_id: as the tokenizer's keys have it.
        eos_token_ids: every token that ends a text or a turn.
        numbers: reads a tensor that belongs to the configuration.
        pre_tokenizer: name of the rule by which the tokenizer cuts text into words.
    """

    keys: Keys
    tensors: Mapping[str, TensorInfo]
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    numbers: Callable[[str], F32]
    pre_tokenizer: str | None = None

    def rows(self, name: str) -> int | None:
        """Rows of a tensor's matrices, or None where there is no such tensor."""
        tensor = self.tensors.get(name)
        return None if tensor is None or len(tensor.shape) < 2 else tensor.shape[-2]


def sizes(found: ModelKeys) -> dict[str, Any]:
    """Read what all decoders have: sizes, heads of queries, norm, tokens."""
    keys = found.keys
    vocab = found.rows(EMBEDDING)
    if vocab is None:
        raise ConfigError(f"{keys.where}: tensor {EMBEDDING!r}: is missing. Give the whole model, not its vocabulary.")
    blocks, drafting = keys.num_blocks, keys.count("nextn_predict_layers") or 0
    if drafting >= blocks:
        raise keys.refuse("nextn_predict_layers", drafting, f"The model has {blocks} layers.")
    heads = keys.uniform("attention.head_count", blocks)
    if heads is None:
        raise ConfigError(f"{keys.where}: attention.head_count: expected a number of heads, got nothing.")
    return without_none({
        "vocab_size": vocab,
        "hidden_size": keys.required("embedding_length"),
        "num_hidden_layers": blocks - drafting,
        "num_attention_heads": heads,
        "max_position_embeddings": keys.required("context_length"),
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": HEAD not in found.tensors,
        "eos_token_id": list(found.eos_token_ids),
    }) | {"bos_token_id": found.bos_token_id}  # fmt: skip


def decoder(found: ModelKeys) -> dict[str, Any]:
    """Read a decoder whose layers have the same heads, and how many experts a token has."""
    keys, config = found.keys, sizes(found)
    kv_heads = keys.uniform("attention.head_count_kv", keys.num_blocks)
    return config | without_none({
        "num_key_value_heads": kv_heads or config["num_attention_heads"],
        "head_dim": same_width(keys),
        "num_experts_per_tok": keys.required("expert_used_count"),
    })  # fmt: skip


def heads_of_keys(found: ModelKeys, layers: Collection[int]) -> int | None:
    """Return how many heads of keys these layers have, of a key with a number a layer; None where there are no layers.

    Raises:
        ConfigError: they differ, or have none.
    """
    name, blocks = "attention.head_count_kv", found.keys.num_blocks
    values = found.keys.by_layer(name, blocks)
    if values is None:
        raise ConfigError(f"{found.keys.where}: {name}: expected a number a layer, got nothing.")
    those = {values[i] for i in layers}
    if len(those) > 1 or 0 in those:
        raise found.keys.refuse(name, sorted(those)[:8], "Layers of one kind have the same, and at least one.")
    return int(next(iter(those))) if those else None


def layers_with(found: ModelKeys, tensor: str) -> list[int]:
    """Return the layers that have a tensor, by its name below a layer."""
    return [i for i in range(found.keys.num_blocks) if f"blk.{i}.{tensor}" in found.tensors]


def head_dim(config: Mapping[str, Any]) -> int:
    """Numbers of a head, by a configuration that may leave it to the width."""
    dim: int = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return dim


def rope(keys: Keys, head_dim: int) -> dict[str, Any]:
    """Read the rotary options of a model that has the same ones in every layer, and turns whole heads."""
    keys.fixed("rope.dimension_count", head_dim)
    return {"rope_parameters": {"rope_theta": theta(keys), **scaling(keys)}}


def partial_rope(keys: Keys, head_dim: int) -> dict[str, Any]:
    """Read the rotary options of a model that turns a part of each head."""
    turned = keys.count("rope.dimension_count") or head_dim
    return {"rope_parameters": {"rope_theta": theta(keys), "partial_rotary_factor": turned / head_dim, **scaling(keys)}}


def theta(keys: Keys) -> float:
    """Read the base of the rope."""
    value = keys.number("rope.freq_base")
    return 10000.0 if value is None else value


def intermediate(found: ModelKeys, name: str, tensor: str) -> int | None:
    """Width of a feed-forward network: by its key, or the rows of a tensor in files that lack the key."""
    width = found.keys.count(name)
    return found.rows(tensor) if width is None else width


def same_width(keys: Keys) -> int | None:
    """Read the width of heads, which keys and values share; None where the file leaves it to the model's width."""
    key, value = keys.count("attention.key_length"), keys.count("attention.value_length")
    if key != value:
        raise keys.refuse("attention.value_length", value, f"Keys have {key}; other widths of values are not read.")
    return key


def scaling(keys: Keys) -> dict[str, Any]:
    """Read how the rope is stretched."""
    kind, factor = keys.text("rope.scaling.type"), keys.number("rope.scaling.factor")
    old = keys.number("rope.scale_linear")
    if kind is None and old not in (None, 1.0):
        kind, factor = "linear", old
    keys.fixed("rope.scaling.attn_factor", 1.0)
    keys.fixed("rope.scaling.yarn_ext_factor", 1.0)
    yarn = without_none({
        "original_max_position_embeddings": keys.count("rope.scaling.original_context_length"),
        "attention_factor": keys.number("rope.scaling.yarn_attn_factor"),
        "beta_fast": keys.number("rope.scaling.yarn_beta_fast"),
        "beta_slow": keys.number("rope.scaling.yarn_beta_slow"),
    })  # fmt: skip
    if kind in (None, "none"):
        return {"rope_type": "default"}
    if kind not in ("linear", "yarn"):
        raise keys.refuse("rope.scaling.type", kind, "Supported: none, linear, yarn.")
    if factor is None:
        raise ConfigError(f"{keys.where}: rope.scaling.factor: rope type {kind!r} needs it, got nothing.")
    return {"rope_type": kind, "factor": factor, **(yarn if kind == "yarn" else {})}
