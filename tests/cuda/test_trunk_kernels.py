"""The trunk's kernels against float64: products of every stored form, norms, attention over a cache, networks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from cuda.bench import BOUND, Bench

from edge_runtime.backends.cpu.activation import activate
from edge_runtime.backends.cuda.structures import Variant
from edge_runtime.backends.cuda.trunk.launches import AttentionAt, DeviceMatrix, TrunkLaunches
from edge_runtime.backends.cuda.trunk.structures import Join, make_attend, make_heads, row_heads
from edge_runtime.base.spec import RopeSpec, SoftmaxAttention
from hobbit_export.trunk.quantize import dequantize_rows, quantize_rows

Array = np.ndarray
FORMS = [("f32", 0), ("q8", 128), ("q8", 32), ("q8", 16), ("q4", 64), ("q4", 16)]


def close(found: Array, wanted: Array) -> None:
    assert np.abs(found - wanted).max() <= BOUND * np.abs(wanted).max()


def matrix(bench: Bench, form: str, block: int, weights: Array, bias: Array | None) -> tuple[DeviceMatrix, Array]:
    """A matrix [N, K] on the device, and the numbers it stands for."""
    outputs, inputs = weights.shape
    at = DeviceMatrix(inputs, outputs, 0, bias=0 if bias is None else bench.put(bias))
    if form == "f32":
        return replace(at, weights=bench.put(weights.T)), weights
    bits = 8 if form == "q8" else 4
    q = quantize_rows(weights, bits, block)
    stored = replace(at, bits=bits, block=block, weights=bench.put(q.codes), scales=bench.put(q.scales))
    return stored, dequantize_rows(q, bits, inputs)


@pytest.mark.parametrize(
    ("form", "block", "inputs", "outputs"),
    [
        *((*form, *size) for form in FORMS for size in ((128, 40), (640, 9), (1152, 1))),
        ("f32", 0, 100, 9), ("q8", 16, 100, 9), ("q4", 16, 24, 9), ("q4", 16, 524, 3),
    ],
)  # fmt: skip
def test_products_agree_with_float64(bench: Bench, form: str, block: int, inputs: int, outputs: int):
    rng = np.random.default_rng(inputs)
    weights = rng.standard_normal((outputs, inputs)).astype(np.float32)
    x, bias = rng.standard_normal((6, inputs)).astype(np.float32), rng.standard_normal(outputs).astype(np.float32)
    before = rng.standard_normal((6, outputs)).astype(np.float32)
    launches = TrunkLaunches(bench.module, bench.stream)
    at, dense = matrix(bench, form, block, weights, bias)
    want, found = x.astype(np.float64) @ dense.T.astype(np.float64) + bias, {}
    for tokens in (1, 6):
        out = bench.room(np.float32, tokens, outputs)
        launches.linear(bench.put(x[:tokens]), at, out.address, tokens)
        found[tokens] = bench.get(out, np.float32, tokens, outputs)
        close(found[tokens], want[:tokens])
    assert (found[1] == found[6][:1]).all(), "the same bits alone and in company"
    onto = bench.room(np.float32, 6, outputs)
    onto.write(before, bench.stream)
    launches.linear(bench.put(x), replace(at, bias=0), onto.address, 6, adds=True)
    close(bench.get(onto, np.float32, 6, outputs), want - bias + before)


@pytest.mark.parametrize(("tokens", "width", "stride"), [(1, 96, 96), (3, 300, 300), (2, 64, 160)])
def test_norms_of_a_stream_and_of_parts_of_rows(bench: Bench, tokens: int, width: int, stride: int):
    rng = np.random.default_rng(width)
    x, more = (rng.standard_normal((tokens, n)).astype(np.float32) for n in (stride, width))
    weight = rng.random(width).astype(np.float32)
    launches, at = TrunkLaunches(bench.module, bench.stream), bench.room(np.float32, tokens, stride)
    at.write(x, bench.stream)
    if stride == width:
        out = bench.room(np.float32, tokens, width)
        launches.add_norm(at.address, bench.put(more), (bench.put(weight), 0), out.address, (tokens, width), 1e-5)
        np.testing.assert_array_equal(bench.get(at, np.float32, tokens, width), x + more)
        found, wide = bench.get(out, np.float32, tokens, width), (x + more).astype(np.float64)
    else:
        launches.norm_part(at.address, bench.put(weight), (tokens, width, stride), 1e-5)
        whole = bench.get(at, np.float32, tokens, stride)
        np.testing.assert_array_equal(whole[:, width:], x[:, width:])
        found, wide = whole[:, :width], x[:, :width].astype(np.float64)
    want = wide / np.sqrt((wide**2).mean(1, keepdims=True) + 1e-5) * weight
    np.testing.assert_allclose(found, want, rtol=2e-6, atol=1e-9)


def test_layer_norm(bench: Bench):
    rng = np.random.default_rng(3)
    x, weight, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 300), (300,), (300,)))
    x += 2
    launches, out = TrunkLaunches(bench.module, bench.stream), bench.room(np.float32, 2, 300)
    vectors = bench.put(weight), bench.put(bias)
    launches.add_norm(bench.put(x), 0, vectors, out.address, (2, 300), 1e-5)
    wide = x.astype(np.float64) - x.astype(np.float64).mean(1, keepdims=True)
    close(bench.get(out, np.float32, 2, 300), wide / np.sqrt((wide**2).mean(1, keepdims=True) + 1e-5) * weight + bias)


@pytest.mark.parametrize("form", ["joint", "own", "joint by", "own joint by", "nothing own joint"])
def test_what_the_residual_stream_takes(bench: Bench, form: str):
    rng, size = np.random.default_rng(5), (2, 300)
    resid, y, beside = (rng.standard_normal(size).astype(np.float32) for _ in range(3))
    own, joint = rng.random(300).astype(np.float32), rng.random(300).astype(np.float32)
    by, has = np.array([1.7], np.float32), form.split()

    def norm(x: Array) -> Array:
        return x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5)

    want = np.zeros(size) if "nothing" in has else y.astype(np.float64)
    want = norm(want) * own + beside if "own" in has else want
    want = norm(want) * joint if "joint" in has else want
    want = (resid + 0.3 * want) * (by[0] if "by" in has else 1)
    names = {"own": own, "beside": beside if "own" in has else None, "joint": joint, "by": by}
    at = [bench.put(a) if a is not None and (n in has or n == "beside") else 0 for n, a in names.items()]
    memory = bench.room(np.float32, *size)
    memory.write(resid, bench.stream)
    launches = TrunkLaunches(bench.module, bench.stream)
    launches.join(memory.address, 0 if "nothing" in has else bench.put(y), Join(*at, 300, 0.3, 1e-5), 2)
    close(bench.get(memory, np.float32, *size), want)


@pytest.mark.parametrize(("form", "block"), [("f32", 0), ("q8", 16), ("q4", 64)])
def test_matrices_of_each_head(bench: Bench, form: str, block: int):
    """Each reads its part of a row and writes another, with numbers between that nobody touches."""
    rng, heads, inputs, outputs = np.random.default_rng(block), 3, 64, 40
    x = rng.standard_normal((6, heads, inputs + 4)).astype(np.float32)
    weights = rng.standard_normal((heads * outputs, inputs)).astype(np.float32)
    whole, dense = matrix(bench, form, block, weights, None)  # one above the other
    step = outputs * inputs * whole.bits // 8
    each = replace(whole, outputs=outputs, count=heads, step=step, scale_step=4 * outputs * inputs // (block or inputs))
    if form == "f32":
        each = replace(each, weights=bench.put(weights.reshape(heads, outputs, inputs).transpose(0, 2, 1)))
    dense = dense.reshape(heads, outputs, inputs).astype(np.float64)
    want = np.einsum("thk,hnk->thn", x[..., :inputs].astype(np.float64), dense)
    launches, alone = TrunkLaunches(bench.module, bench.stream), []
    for tokens in (1, 6):
        out = bench.room(np.float32, tokens, heads, outputs + 2)
        rows, steps = (heads * (inputs + 4), heads * (outputs + 2)), (inputs + 4, outputs + 2)
        launches.linear(bench.put(x[:tokens]), each, out.address, tokens, rows=rows, steps=steps)
        found = bench.get(out, np.float32, tokens, heads, outputs + 2)
        close(found[..., :outputs], want[:tokens])
        assert np.isnan(found[..., outputs:]).all()
        alone.append(found[0])
    np.testing.assert_array_equal(*alone)


CONTEXT = 24
PLAIN = SoftmaxAttention("full", 6, 2, 32, RopeSpec("default", 10000.0, 32))
ATTENTIONS = {
    "plain": PLAIN,
    "half rotated": replace(PLAIN, head_dim=48, rope=RopeSpec("default", 10000.0, 20), clip_qkv=0.8),
    "wide heads": replace(PLAIN, num_heads=2, num_kv_heads=1, head_dim=256, rope=RopeSpec("default", 10000.0, 256)),
    "window and norm": replace(PLAIN, kind="sliding", window=5, qk_norm="per_head"),
    "sinks and scale": replace(PLAIN, sinks=True, scale=0.3, num_heads=4),
    "pairs": replace(PLAIN, rope=RopeSpec("default", 10000.0, 20, pairs=True), qk_norm="per_head_rotated"),
    "gates": replace(PLAIN, output_gate=True, rope=None, head_dim=48),
    "keys as values": replace(
        PLAIN,
        num_heads=2,
        num_kv_heads=1,
        head_dim=512,
        rope=RopeSpec("default", 10000.0, 64),
        shared_kv=True,
        value_norm=True,
        qk_norm="per_head",
    ),
}


def rotated(x: Array, cos: Array, sin: Array, half: int, pairs: bool) -> Array:
    """Rotate x [T, heads, C]."""
    out, first, second = x.copy(), slice(half), slice(half, 2 * half)
    if pairs:
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    a, b, c, s = x[..., first], x[..., second], cos[:, None], sin[:, None]
    out[..., first], out[..., second] = a * c - b * s, b * c + a * s
    return out


def normed(x: Array) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


class Case:
    """A layer's attention with some tokens in the cache."""

    def __init__(self, s: SoftmaxAttention, past: int, tokens: int) -> None:
        rng = np.random.default_rng(past + tokens)
        self.s, self.past, self.tokens = s, past, tokens
        h, g, c = s.num_heads, s.num_kv_heads, s.head_dim
        self.keys, self.values = (rng.standard_normal((g, CONTEXT, c)).astype(np.float32) for _ in range(2))
        self.keys[:, past:] = self.values[:, past:] = np.nan  # nobody reads them
        self.qkv = rng.standard_normal((tokens, row_heads(s), c)).astype(np.float32)
        self.half = 0 if s.rope is None else s.rope.dim // 2
        angles = rng.random((tokens, self.half)) * 6
        self.cos, self.sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        self.gammas = rng.random((h + g, c)).astype(np.float32) if s.qk_norm.startswith("per_head") else None
        self.sinks = rng.standard_normal(h).astype(np.float32) if s.sinks else None

    def wanted(self) -> Array:
        """Out [T, H, C] in float64."""
        s, joint = self.s, self.s.num_heads + self.s.num_kv_heads
        x = self.qkv.astype(np.float64)
        if s.clip_qkv is not None:
            x = np.clip(x, -s.clip_qkv, s.clip_qkv)
        gates = x[:, -s.num_heads :] if s.output_gate else None
        own = x[:, s.num_heads : joint] if s.shared_kv else x[:, joint : joint + s.num_kv_heads]
        own = normed(own) if s.value_norm else own
        qk, pairs = x[:, :joint], s.rope is not None and s.rope.pairs
        qk = normed(qk) * self.gammas if s.qk_norm == "per_head" else qk
        qk = rotated(qk, self.cos, self.sin, self.half, pairs)
        qk = normed(qk) * self.gammas if s.qk_norm == "per_head_rotated" else qk
        out = np.zeros((self.tokens, s.num_heads, s.head_dim))
        for t in range(self.tokens):
            for head in range(s.num_heads):
                group, end = head // (s.num_heads // s.num_kv_heads), self.past + t + 1
                new_k, new_v = qk[: t + 1, s.num_heads + group], own[: t + 1, group]
                keys = np.concatenate((self.keys[group, : self.past], new_k))
                values = np.concatenate((self.values[group, : self.past], new_v))
                first = max(0, end - (s.window or end))
                scores = keys[first:] @ qk[t, head] * s.score_scale
                weights = np.exp(scores)
                below = weights.sum() + (0 if self.sinks is None else math.exp(self.sinks[head]))
                out[t, head] = weights @ values[first:] / below
        return out if gates is None else out / (1 + np.exp(-gates))

    def run(self, bench: Bench, first: int, count: int) -> Array:
        """Run some of the tokens over the cache on the device."""
        s, rows = self.s, slice(first, first + count)
        out = bench.room(np.float32, count, s.num_heads, s.head_dim)
        past = bench.put(np.array([self.past + first], np.int32))
        gammas, sinks = (0 if each is None else bench.put(each) for each in (self.gammas, self.sinks))
        angles = bench.put(self.cos[rows]), bench.put(self.sin[rows])
        at = AttentionAt(bench.put(self.qkv[rows]), gammas, *angles, past, *self.cache, sinks, out.address)
        launches = TrunkLaunches(bench.module, bench.stream)
        launches.attention(at, make_heads(s, CONTEXT, 1e-6), make_attend(s, CONTEXT), count)
        return bench.get(out, np.float32, count, s.num_heads, s.head_dim)

    def place(self, bench: Bench) -> None:
        """Put the cache on the device."""
        self.cache = bench.put(self.keys), bench.put(self.values)


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize(("past", "tokens"), [(0, 1), (0, 5), (19, 5)])
def test_attention_agrees_with_float64(bench: Bench, name: str, past: int, tokens: int):
    case = Case(ATTENTIONS[name], past, tokens)
    case.place(bench)
    together = case.run(bench, 0, tokens)
    close(together, case.wanted())
    case.place(bench)
    alone = np.concatenate([case.run(bench, t, 1) for t in range(tokens)])
    assert (alone == together).all(), "the same bits alone and in company"


def test_a_key_that_is_not_finite_shows(bench: Bench):
    case = Case(PLAIN, 4, 1)
    case.keys[1, 2] = np.nan
    case.place(bench)
    found = case.run(bench, 0, 1)[0]
    assert np.isfinite(found[:3]).all()
    assert np.isnan(found[3:]).all()


@pytest.mark.parametrize(("kind", "number"), [("silu", 0), ("gelu_tanh", 1), ("relu2", 2)])
@pytest.mark.parametrize("gated", [True, False])
def test_networks_gates_and_sums(bench: Bench, kind: str, number: int, gated: bool):
    rng = np.random.default_rng(number)
    wide = rng.standard_normal((2, 600 if gated else 300)).astype(np.float32)
    launches, out = TrunkLaunches(bench.module, bench.stream), bench.room(np.float32, 2, 300)
    launches.hidden(bench.put(wide), out.address, (2, 300), gated, Variant(number, math.inf, 1.0, 0.0))
    double = wide.astype(np.float64)
    want = activate(kind, double[:, :300]) * (double[:, 300:] if gated else 1)  # type: ignore[arg-type]
    close(bench.get(out, np.float32, 2, 300), want)
    gates = rng.standard_normal(2).astype(np.float32)
    launches.gate_rows(out.address, bench.put(gates), (2, 300))
    want = want / (1 + np.exp(-gates.astype(np.float64)))[:, None]
    launches.add(out.address, bench.put(wide[:, :300]), 600)
    close(bench.get(out, np.float32, 2, 300), want + wide[:, :300])
