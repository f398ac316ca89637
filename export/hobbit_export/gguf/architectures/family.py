"""What the exporter must know of a family to read it from GGUF."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from hobbit_export.arch.names import LeftOut, Named
from hobbit_export.gguf.common import ModelKeys, decoder, head_dim, rope
from hobbit_export.gguf.undo import flattened, in_halves, log_of_negative, with_shape
from hobbit_export.weights import Weight

Undo = Callable[[Weight, Mapping[str, Any]], Weight]
"""A weight as it is stored, and the configuration -> the weight as transformers has it."""


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        model_type: its name in transformers, by which the adapter is found.
        read: builds config.json.
        undo: canonical name of a weight -> how to undo what was done to it.
        tensors: canonical name -> tensor (of layers: below ``blk.N.``), where the tables of the `gguf` package do not
            know it, or a weight comes from another tensor than in transformers.
        before: the same of older files, where what `tensors` names is in no layer.
        left_out: tensors that are not part of what is run.
        also: names of families that `read` may say instead of `model_type`.
    """

    model_type: str
    read: Callable[[ModelKeys], dict[str, Any]]
    undo: Mapping[str, Undo] = field(default_factory=dict)
    tensors: Mapping[str, Named] = field(default_factory=dict)
    before: Mapping[str, Named] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    also: tuple[str, ...] = ()


def plain(found: ModelKeys) -> dict[str, Any]:
    """Read a decoder with one kind of layer and rope."""
    config = decoder(found)
    return {**config, **rope(found.keys, head_dim(config))}


def taken_from(names: Mapping[str, Named], tensors: Mapping[str, str]) -> dict[str, Named]:
    """Return weights that an adapter takes from parts of tensors, taken from the same parts of others.

    Args:
        names: of the adapter.
        tensors: canonical name -> the tensor in GGUF.
    """
    found: dict[str, Named] = {}
    for canonical, tensor in tensors.items():
        derived: Any = names[canonical]
        found[canonical] = replace(derived, tensor=tensor)
    return found


def has_bias(found: ModelKeys) -> bool:
    """Whether the projections of attention have biases."""
    return "blk.0.attn_q.bias" in found.tensors


def _heads(weight: Weight, config: Mapping[str, Any]) -> Weight:
    return in_halves(weight, head_dim(config))


def one_row(weight: Weight, config: Mapping[str, Any]) -> Weight:
    """Return a matrix of one row, which converters store as a vector."""
    return with_shape(weight, 1, config["hidden_size"])


HEADS: Mapping[str, Undo] = dict.fromkeys(("q", "k", "q_bias", "k_bias"), _heads)
"""What the converter of the llama family does to q and k, and those of its relatives."""


def vector(weight: Weight, config: Mapping[str, Any]) -> Weight:
    """Return a vector that converters store as a matrix."""
    return flattened(weight)


def decay(weight: Weight, config: Mapping[str, Any]) -> Weight:
    """Return log(-x) of numbers of heads, of which converters store -exp."""
    return log_of_negative(flattened(weight))


def taps(weight: Weight, config: Mapping[str, Any]) -> Weight:
    """Return a convolution of channels with the dimension of 1 that converters leave out, or put elsewhere."""
    channels = prod(weight.shape[:-1])
    return with_shape(weight, channels, 1, weight.cols)
