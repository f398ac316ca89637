"""Rotary embedding against transformers' own modules, number by number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_runtime.backends.cpu.trunk.rope import Rotary
from edge_runtime.base.spec import RopeSpec

KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 3.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 256},
    "yarn betas": {"factor": 8.0, "original_max_position_embeddings": 128, "beta_fast": 20.0, "beta_slow": 2.0},
    "yarn not truncated": {"factor": 4.0, "original_max_position_embeddings": 256, "truncate": False},
    "yarn mscale": {"factor": 4.0, "original_max_position_embeddings": 256, "mscale": 0.8, "mscale_all_dim": 0.5},
    "yarn attention_factor": {"factor": 4.0, "original_max_position_embeddings": 256, "attention_factor": 1.3},
    "llama3": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 256,
    },
}  # fmt: skip


def _oracle(name: str, theta: float, head_dim: int, calls: list[tuple[int, int]]) -> list[tuple[Any, Any]]:
    import torch
    from transformers import Qwen3MoeConfig
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeRotaryEmbedding

    rope = {"rope_type": name.split()[0], "rope_theta": theta, **KINDS[name]}
    config = Qwen3MoeConfig(head_dim=head_dim, max_position_embeddings=1024, rope_parameters=rope)
    module = Qwen3MoeRotaryEmbedding(config)
    found = []
    for start, tokens in calls:
        cos, sin = module(torch.zeros(1), torch.arange(start, start + tokens)[None])
        found.append((cos[0, :, : head_dim // 2].numpy(), sin[0, :, : head_dim // 2].numpy()))
    return found


@pytest.mark.oracle
@pytest.mark.parametrize("head_dim", [24, 128])
@pytest.mark.parametrize("theta", [10000.0, 1e6])
@pytest.mark.parametrize("name", KINDS)
def test_equals_transformers(name: str, theta: float, head_dim: int) -> None:
    calls = [(0, 20), (20, 1), (1000, 24), (1024, 1), (1025, 500), (4000, 1)]
    rotary = Rotary(RopeSpec(name.split()[0], theta, head_dim, KINDS[name]), 1024)  # type: ignore[arg-type]
    for (start, tokens), (cos, sin) in zip(calls, _oracle(name, theta, head_dim, calls), strict=True):
        got_cos, got_sin = rotary.cos_sin(start, tokens)
        assert got_cos.dtype == got_sin.dtype == np.float32
        # one unit in the last place of a frequency turns an angle by position * 6e-8
        tolerance = 2e-6 + (start + tokens) * 2.4e-7
        np.testing.assert_allclose(got_cos, cos, rtol=0, atol=tolerance)
        np.testing.assert_allclose(got_sin, sin, rtol=0, atol=tolerance)


def test_dynamic_depends_on_the_longest_position_of_the_call_only() -> None:
    rotary = Rotary(RopeSpec("dynamic", 10000.0, 32, {"factor": 2.0}), 64)
    long_cos, _ = rotary.cos_sin(0, 200)
    short_cos, _ = rotary.cos_sin(0, 20)
    plain_cos, _ = Rotary(RopeSpec("default", 10000.0, 32), 64).cos_sin(0, 20)
    np.testing.assert_array_equal(short_cos, plain_cos)  # the call before leaves no trace
    assert np.abs(long_cos[:20] - plain_cos).max() > 1e-3


@pytest.mark.oracle
@pytest.mark.parametrize("context", [64, 65])
def test_longrope_is_that_of_the_whole_sequence(context: int) -> None:
    """The long factors at every position of a sequence that may become long: transformers' formula, asked for them."""
    import torch
    from transformers import PhimoeConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    short, long = [1.0 + i / 8 for i in range(16)], [1.0 + 3 * i for i in range(16)]
    given = {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": short, "long_factor": long, "short_mscale": 1.1,
        "long_mscale": 1.4, "original_max_position_embeddings": 64,
    }  # fmt: skip
    config = PhimoeConfig(
        hidden_size=128, num_attention_heads=4, max_position_embeddings=512, rope_parameters=given,
        original_max_position_embeddings=64,
    )  # fmt: skip
    frequencies, _ = ROPE_INIT_FUNCTIONS["longrope"](config, seq_len=context)
    params = {"original_max_position_embeddings": 64, "short_mscale": 1.1, "long_mscale": 1.4}
    rotary = Rotary(RopeSpec("longrope", 1e4, 32, params, short, long), 512)
    for start, tokens in ((0, 20), (40, 1)):
        angles = torch.arange(start, start + tokens)[:, None].float() * frequencies
        scale = 1.4 if context > 64 else 1.1
        cos, sin = rotary.cos_sin(start, tokens, context)
        np.testing.assert_allclose(cos, (angles.cos() * scale).numpy(), rtol=0, atol=2e-5)
        np.testing.assert_allclose(sin, (angles.sin() * scale).numpy(), rtol=0, atol=2e-5)


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(ValueError, match="low_freq_factor"):
        Rotary(RopeSpec("llama3", 10000.0, 32, {"factor": 2.0, "original_max_position_embeddings": 64}), 64)
