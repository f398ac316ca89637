"""Arguments of the kernels, as the structures of kernels/*.cuh, and the numpy types of what lies in device memory."""

from __future__ import annotations

import ctypes
import math

import numpy as np

from edge_runtime.base.spec import Activation, ExpertSpec, RouterSpec

GROUP, PANEL = 32, 16
TILE_TOKENS = 16
"""Most tokens that go through an expert's weights together (kTileTokens in batch.cuh)."""
MOST_EXPERTS, MOST_RANKS = 1024, 32
"""Of a router on the device (kMostExperts and kMostRanks in route.cuh)."""

ACT_GROUP = np.dtype(
    {
        "names": ["q", "scale", "scale_sum", "sum"],
        "formats": [(np.int8, GROUP), np.float32, np.float32, np.int32],
        "offsets": [0, 32, 36, 40],
        "itemsize": 48,
    }
)
"""32 activations (ActGroup in record.cuh)."""
TILE = np.dtype([("slot", np.int32), ("first", np.int32), ("count", np.int32)])
"""Pairs of one expert, `members[first : first + count]` (Tile in batch.cuh)."""

_ACTIVATIONS: dict[Activation, int] = {"silu": 0, "gelu_tanh": 1, "relu2": 2}
_SCORES = {"softmax": 0, "sigmoid": 1, "sqrt_softplus": 2}
_U32, _U64, _FLOAT = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_float


class Shape(ctypes.Structure):
    """Sizes of a layer's experts."""

    _fields_ = (("hidden", _U32), ("inter", _U32), ("top_k", _U32), ("gated", _U32), ("has_bias", _U32))


class Variant(ctypes.Structure):
    """What lies between an expert's matrices."""

    _fields_ = (("activation", _U32), ("limit", _FLOAT), ("alpha", _FLOAT), ("up_offset", _FLOAT))


class Pairs(ctypes.Structure):
    """Addresses of: segments uint64 [S, 4], slot of each expert int32 [E], expert of each pair int32 [T, K]."""

    _fields_ = (("segments", _U64), ("slot_of", _U64), ("experts", _U64))


class Tiles(ctypes.Structure):
    """Addresses of: segments uint64 [S, 4], tiles `TILE` [n], their pairs int32."""

    _fields_ = (("segments", _U64), ("tiles", _U64), ("members", _U64))


class RouterRule(ctypes.Structure):
    """A model's rule from logits to experts."""

    _fields_ = (
        ("experts", _U32), ("top_k", _U32), ("score", _U32), ("over_chosen", _U32), ("normalise", _U32),
        ("epsilon", _FLOAT), ("scale", _FLOAT), ("groups", _U32), ("chosen_groups", _U32), ("two_best", _U32),
        ("near", _FLOAT), ("floor", _FLOAT),
    )  # fmt: skip


class RouterTensors(ctypes.Structure):
    """Addresses of a layer's numbers, 0 where the rule has none.

    logit_bias, selection_bias and expert_scale float32 [E]; table int32 [vocabulary, K] with token_ids int32 [T].
    """

    _fields_ = (
        ("logit_bias", _U64), ("selection_bias", _U64), ("expert_scale", _U64), ("table", _U64), ("token_ids", _U64),
    )  # fmt: skip


def make_shape(hidden: int, top_k: int, experts: ExpertSpec) -> Shape:
    """Return the sizes of a model's experts."""
    return Shape(hidden, experts.intermediate, top_k, experts.gated, experts.bias)


def activation_number(kind: Activation) -> int:
    """Return an activation as the kernels number them (activation.cuh)."""
    return _ACTIVATIONS[kind]


def make_variant(experts: ExpertSpec) -> Variant:
    """Return what a model's experts compute between their matrices."""
    limit = math.inf if experts.limit is None else experts.limit
    return Variant(_ACTIVATIONS[experts.activation], limit, experts.alpha, experts.up_offset)


def make_rule(router: RouterSpec) -> RouterRule:
    """Return a model's rule.

    Raises:
        ValueError: it has more experts or ranks than a warp takes.
    """
    if router.num_experts > MOST_EXPERTS or router.top_k > MOST_RANKS:
        raise ValueError(
            f"route: expected at most {MOST_EXPERTS} experts and {MOST_RANKS} a token, got {router.num_experts} and "
            f"{router.top_k}. Route on the host."
        )
    groups = router.groups
    return RouterRule(
        router.num_experts, router.top_k, _SCORES[router.score], router.softmax_over == "chosen", router.normalise,
        router.norm_epsilon, router.scale,
        *((groups.count, groups.chosen, groups.score == "top2_sum") if groups else (0, 0, False)),
        router.near if router.softmax_over == "near" else -1.0, router.norm_floor,
    )  # fmt: skip
