"""What no kernel on the GPU computes is found in a model's description, also what was added after the kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from specs import model_spec

from edge_runtime.backends.cuda.grids import MOST_BLOCKS, require_tokens
from edge_runtime.backends.cuda.known import unknown_parts
from edge_runtime.backends.cuda.trunk.supported import why_not
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import LatentAttention, LinearAttention, MlpSpec, RouterSpec, SoftmaxAttention

MODEL = model_spec()
LAYER, ATTENTION = MODEL.layers[0], MODEL.attention
LINEAR = LinearAttention("linear", "gated_delta", 2, 4, 16, 16, 4)
LATENT = LatentAttention("mla", 2, None, 32, 16, 8, 16, None)


def test_a_model_of_the_first_families_is_known():
    assert why_not(MODEL) == ""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"attention": replace(LINEAR, key_dim=256)}, "layer 0: keys of 256 numbers, at most 128"),
        ({"attention": replace(LINEAR, kernel=1)}, "layer 0: a convolution of one tap"),
        ({"attention": replace(LATENT, kv_rank=1024)}, "layer 0: 1024 + 8 numbers kept of a token, at most 576"),
        ({"attention": replace(LATENT, nope_dim=18)}, "layer 0: heads of 18 + 8 numbers, expected a multiple of 4"),
        ({"attention": replace(ATTENTION, head_dim=1024)}, "layer 0: heads of 1024 numbers, at most 512"),
        ({"sparse": False, "dense": MlpSpec(70)}, "layer 0: a matrix of 70 inputs, expected a multiple of 4"),
    ],
)
def test_a_part_the_trunk_does_not_know_is_named(changed: dict[str, Any], said: str):
    assert why_not(replace(MODEL, layers=[replace(LAYER, **changed)])) == said


@pytest.mark.parametrize(
    ("attention", "trunk", "most"),
    [
        (ATTENTION, True, MOST_BLOCKS // MODEL.top_k),
        (replace(LATENT, num_heads=128), True, 4 * 511),
        (replace(LATENT, num_heads=128), False, MOST_BLOCKS // MODEL.top_k),
    ],
)
def test_a_pass_has_no_more_blocks_than_a_launch(attention: Any, trunk: bool, most: int):
    model = replace(MODEL, layers=[replace(LAYER, attention=attention)])
    require_tokens(model, most, trunk=trunk)
    with pytest.raises(ConfigError, match=rf"prefill_chunk: passes of {most + 1} tokens .* at most {most}\. Lower"):
        require_tokens(model, most + 1, trunk=trunk)


def test_a_field_added_later_counts_as_unknown_unless_it_changes_nothing():
    @dataclass(frozen=True)
    class Later(SoftmaxAttention):
        temperature: float = 1.0

    Later.__name__ = "SoftmaxAttention"
    whole = {name: getattr(ATTENTION, name) for name in ATTENTION.__dataclass_fields__}
    assert list(unknown_parts(Later(**whole), "attention")) == []
    assert list(unknown_parts(Later(**whole, temperature=2.0), "attention")) == ["attention with temperature"]


def test_a_word_that_is_new_in_a_known_field_is_unknown():
    rule = RouterSpec(8, 2, normalise=True)
    assert list(unknown_parts(rule, "router")) == []
    changed: dict[str, Any] = {"softmax_over": "some"}
    assert list(unknown_parts(replace(rule, **changed), "router")) == ["router with softmax over 'some'"]
    changed = {"qk_norm": "per_group"}
    found = list(unknown_parts(replace(ATTENTION, **changed), "attention"))
    assert found == ["attention with qk norm 'per_group'"]
