"""Fused operators of graphs trust the sizes they are told; the check of graphs does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from changed_graph import Changed
from onnx import helper

from edge_runtime.base.errors import BundleError


@pytest.fixture(scope="module")
def fused_bundle(exported) -> Path:
    from conftest import MODEL

    return exported(MODEL, "--tiers", "4", "--trunk", "int4")


def wrong_columns(c: Changed) -> None:
    attribute(c, "MatMulNBits", "K").i += 32


def wrong_rows(c: Changed) -> None:
    attribute(c, "MatMulNBits", "N").i *= 2


def wrong_bits(c: Changed) -> None:
    attribute(c, "MatMulNBits", "bits").i = 2


def wrong_block(c: Changed) -> None:
    attribute(c, "MatMulNBits", "block_size").i = 1 << 20


def no_rows(c: Changed) -> None:
    attribute(c, "MatMulNBits", "N").i = 0


def zero_points(c: Changed) -> None:
    c.node("MatMulNBits").input.append(c.constant(np.zeros(1, np.uint8)))


def scales_that_are_computed(c: Changed) -> None:
    node = c.node("MatMulNBits")
    shape = next(t.dims for t in c.graph.initializer if t.name == node.input[2])
    c.graph.node.insert(0, helper.make_node("Relu", [node.input[2]], ["computed"]))
    node.input[2] = "computed"
    assert shape


def positions_beyond(c: Changed) -> None:
    c.node("RotaryEmbedding").input[1] = c.constant(np.array([1 << 30], np.int64))


def other_heads(c: Changed) -> None:
    c.node("RotaryEmbedding").attribute.append(helper.make_attribute("num_heads", 77))


def wide_rotation(c: Changed) -> None:
    c.node("RotaryEmbedding").attribute.append(helper.make_attribute("rotary_embedding_dim", 1 << 20))


def interleaved(c: Changed) -> None:
    c.node("RotaryEmbedding").attribute.append(helper.make_attribute("interleaved", 2))


def other_gamma(c: Changed) -> None:
    c.node("SkipSimplifiedLayerNormalization").input[2] = c.constant(np.ones(3, np.float32))


def not_a_number(c: Changed) -> None:
    c.node("SkipSimplifiedLayerNormalization").attribute[0].f = float("nan")


FUSED_FAULTS = [
    wrong_columns, wrong_rows, wrong_bits, wrong_block, no_rows, zero_points, scales_that_are_computed,
    positions_beyond, other_heads, wide_rotation, interleaved, other_gamma, not_a_number,
]  # fmt: skip


def attribute(c: Changed, op: str, name: str) -> Any:
    return next(found for found in c.node(op).attribute if found.name == name)


@pytest.mark.parametrize("fault", FUSED_FAULTS, ids=lambda f: f.__name__)
def test_sizes_that_fused_operators_are_told_are_those_they_get(fused_bundle, fault: Callable[[Changed], None]):
    changed = Changed(fused_bundle)
    changed.check()
    fault(changed)
    with pytest.raises(BundleError, match=r"trunk/layer_000\.onnx: "):
        changed.check()
