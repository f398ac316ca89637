"""Numbers a model's router needs besides logits: biases, factors, and the table of hashed layers. docs/format.md."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from edge_runtime.base.arrays import F32, I32
from edge_runtime.base.spec import ModelSpec

FOLDER = "router"
_MAX_ABS = 1e6


@dataclass(frozen=True)
class RouterData:
    """What `RouterSpec` asks for; None for what it does not. S sparse layers in order, of which the first H are hashed.

    Attributes:
        logit_bias: float32 [S, E].
        selection_bias: float32 [S, E].
        expert_scale: float32 [S, E].
        hashed_experts: int32 [H, V, K], the experts of each token, all different.
    """

    logit_bias: F32 | None = None
    selection_bias: F32 | None = None
    expert_scale: F32 | None = None
    hashed_experts: I32 | None = None


def router_arrays(spec: ModelSpec) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return number type and shape of the arrays a model's router has, by field of `RouterData`, in its order."""
    router, rows = spec.router, (len(spec.sparse_layers), spec.num_experts)
    table = (router.hashed_layers, spec.vocab_size, router.top_k)
    wanted: dict[str, tuple[bool, str, tuple[int, ...]]] = {
        "logit_bias": (router.logit_bias, "<f4", rows),
        "selection_bias": (router.selection_bias, "<f4", rows),
        "expert_scale": (router.expert_scale, "<f4", rows),
        "hashed_experts": (router.hashed_layers > 0, "<i4", table),
    }
    return {name: (kind, shape) for name, (is_there, kind, shape) in wanted.items() if is_there}


def router_file(name: str) -> str:
    """Name of the part that holds an array."""
    return f"{FOLDER}/{name}.bin"


def router_parts(spec: ModelSpec) -> dict[str, int]:
    """Return the bytes of the parts a model's router has, by name."""
    return {router_file(name): 4 * prod(shape) for name, (_, shape) in router_arrays(spec).items()}


def router_data_of(spec: ModelSpec, arrays: dict[str, bytes]) -> RouterData:
    """Build the data from untrusted bytes of the right sizes.

    Raises:
        ValueError: names the array that no router can use.
    """
    found: dict[str, Any] = {}
    for name, (kind, shape) in router_arrays(spec).items():
        values = np.frombuffer(arrays[name], kind).reshape(shape)
        found[name] = np.ascontiguousarray(values, np.int32 if kind == "<i4" else np.float32)
        if kind == "<f4" and not (np.abs(found[name]) <= _MAX_ABS).all():
            raise ValueError(f"{name}: expected finite numbers up to {_MAX_ABS:g}")
    if "hashed_experts" in found:
        _check_table(found["hashed_experts"], spec.num_experts)
    return RouterData(**found)


def _check_table(table: I32, num_experts: int) -> None:
    for rows in table:  # a layer at a time: the check needs a copy
        if not ((rows >= 0) & (rows < num_experts)).all():
            raise ValueError(f"hashed_experts: expected experts from 0 to {num_experts - 1}")
        ordered = np.sort(rows, axis=1)
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise ValueError("hashed_experts: expected the experts of a token to be different")
