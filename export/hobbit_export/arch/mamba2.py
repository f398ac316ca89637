"""What families with Mamba-2 share: names of a layer's tensors, and limits of the time step."""

from __future__ import annotations

import math
from typing import Any

from edge_runtime.base.spec import LinearAttention, conv_channels
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.names import Named
from hobbit_export.weight_parts import HeadRows


def mamba2_names(block: str) -> dict[str, Named]:
    """Names below a block such as ``mamba``; one tensor projects the gate, what is convolved, and time steps."""
    parts = ("linear_z", "linear_xbc", "linear_dt")
    return {
        **{name: HeadRows(f"{block}.in_proj.weight", part, projected) for part, name in enumerate(parts)},
        "conv": f"{block}.conv1d.weight",
        "conv_bias": f"{block}.conv1d.bias",
        "a_log": f"{block}.A_log",
        "dt_bias": f"{block}.dt_bias",
        "d_skip": f"{block}.D",
        "linear_norm": f"{block}.norm.weight",
        "linear_o": f"{block}.out_proj.weight",
    }


def no_time_limits(reader: ConfigReader, key: str = "time_step_limit") -> None:
    """Accept limits of the time step that limit nothing.

    transformers applies others while it reads a prompt and not while it decodes, so that no one model has them.
    """
    limits = reader.get(key)
    if limits is not None and list(limits if isinstance(limits, list | tuple) else [limits]) != [0.0, math.inf]:
        raise reader.refuse(key, limits, "Time steps without limits are implemented: [0.0, Infinity].")


def mamba2(heads: int, head_dim: int, groups: int, state: int, kernel: int, *, conv_bias: bool) -> LinearAttention:
    """Return the recurrence of so many heads of `head_dim` numbers, whose groups share what goes into a state."""
    return LinearAttention("linear", "mamba2", groups, heads, state, head_dim, kernel, conv_bias)


def projected(attention: Any) -> tuple[int, tuple[int, ...]]:
    """Return the rows of the gate, of what is convolved, and of time steps in the tensor that projects all."""
    width = attention.num_value_heads * attention.value_dim
    return 1, (width, conv_channels(attention), attention.num_value_heads)
