"""MLA between its projections and the softmax, against float64."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest
from cuda.bench import BOUND, Bench

from edge_runtime.backends.cuda.trunk.launches import TrunkLaunches
from edge_runtime.backends.cuda.trunk.structures import attend_latent, make_latent
from edge_runtime.base.spec import LatentAttention, RopeSpec

Array = np.ndarray
CONTEXT = 20
PLAIN = LatentAttention("mla", 3, None, 32, 16, 8, 24, RopeSpec("default", 10000.0, 8))
CASES = {
    "plain": PLAIN,
    "of a DeepSeek": replace(
        PLAIN, num_heads=2, kv_rank=512, rope_dim=64, rope=RopeSpec("default", 1e4, 64), scale=0.1
    ),
    "not rotated": replace(PLAIN, rope=None),
    "half rotated": replace(PLAIN, kv_rank=48, rope_dim=16),
}


def turned(x: Array, cos: Array, sin: Array) -> Array:
    """Rotate [T, ..., C]."""
    half, shape = cos.shape[1], (len(x), *[1] * (x.ndim - 2), -1)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    c, s = cos.reshape(shape), sin.reshape(shape)
    return np.concatenate((a * c - b * s, b * c + a * s, rest), -1)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("past", "tokens"), [(0, 1), (13, 4)])
def test_what_heads_see_agrees_with_float64(bench: Bench, name: str, past: int, tokens: int):
    a, rng = CASES[name], np.random.default_rng(past)
    width, head, half = a.kv_rank + a.rope_dim, a.nope_dim + a.rope_dim, 0 if a.rope is None else a.rope.dim // 2
    shapes = ((tokens, a.num_heads, head), (tokens, width), (CONTEXT, width), (tokens, a.num_heads, a.kv_rank))
    q, low, cache, absorbed = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    cache[past:] = np.nan  # nobody reads it
    angles = rng.random((tokens, half)) * 6
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    queries = np.concatenate((absorbed, turned(q[..., a.nope_dim :].astype(np.float64), cos, sin)), -1)
    kept = np.concatenate((low[:, : a.kv_rank], turned(low[:, a.kv_rank :].astype(np.float64), cos, sin)), -1)
    want = np.empty((tokens, a.num_heads, a.kv_rank))
    for t in range(tokens):
        known = np.concatenate((cache[:past], kept[: t + 1]))
        weights = np.exp(queries[t] @ known.T * a.score_scale)
        want[t] = weights / weights.sum(-1, keepdims=True) @ known[:, : a.kv_rank]

    def run(first: int, count: int, at_cache: int) -> Array:
        rows = slice(first, first + count)
        at = bench.room(np.float32, count, a.num_heads, width)
        whole = np.full((count, a.num_heads, width), np.nan, np.float32)
        whole[..., : a.kv_rank] = absorbed[rows]
        at.write(whole, bench.stream)
        out = bench.room(np.float32, count, a.num_heads, a.kv_rank)
        position = bench.put(np.array([past + first], np.int32))
        launches = TrunkLaunches(bench.module, bench.stream)
        read = (bench.put(x[rows]) for x in (q, low, cos, sin))
        addresses = map(ctypes.c_uint64, (*read, position, at.address, at_cache))
        launches.launch("hb_place_latent", (a.num_heads + 1, count), 32, *addresses, make_latent(a))
        where = at.address, at_cache, at_cache, 0, position, out.address
        launches.attend(where, attend_latent(a, CONTEXT), count)
        return bench.get(out, np.float32, count, a.num_heads, a.kv_rank)

    together = run(0, tokens, bench.put(cache))
    assert np.abs(together - want).max() <= BOUND * np.abs(want).max()
    again = bench.put(cache)
    alone = np.concatenate([run(t, 1, again) for t in range(tokens)])
    np.testing.assert_array_equal(alone, together)
