"""Kernels of layers with a state of fixed size, against float64: convolutions, recurrences, the gates behind them."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from cuda.bench import BOUND, Bench

from edge_runtime.backends.cuda.trunk.launches import TrunkLaunches
from edge_runtime.backends.cuda.trunk.structures import MOST_STOPS, PASSAGE, Gated, Recurrence, RecurrenceAt, Taps

Array = np.ndarray
SLOTS, TOKENS = 4, 7
FROM, STOPS = 2, ((3, 0), (7, 3))
"""Slot of the states before, and of those after so many tokens."""


def close(found: Array, wanted: Array) -> None:
    assert np.abs(found - wanted).max() <= BOUND * np.abs(wanted).max()


def passage(bench: Bench, source: int, stops: tuple[tuple[int, int], ...]) -> int:
    one = np.zeros(1, PASSAGE)
    one["from"], one["stops"] = source, len(stops)
    for i, (tokens, slot) in enumerate(stops):
        one["tokens"][0, i], one["slots"][0, i] = tokens, slot
    return bench.put(one)


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def random(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Slots:
    """A sequence's slots on the device: poisoned but for the one that is read, with other arrays around this one."""

    def __init__(self, bench: Bench, state: Array) -> None:
        self.bench, self.shape, self.numbers = bench, state.shape, state.size + 24
        whole = np.full((SLOTS, self.numbers), np.nan, np.float32)
        whole[FROM, 8 : 8 + state.size] = state.ravel()
        self.memory = bench.room(np.float32, SLOTS, self.numbers)
        self.memory.write(whole, bench.stream)

    @property
    def address(self) -> int:
        return self.memory.address + 32

    def get(self, slot: int) -> Array:
        whole = self.bench.get(self.memory, np.float32, SLOTS, self.numbers)
        size = int(np.prod(self.shape))
        assert np.isnan(whole[:, :8]).all(), "nothing before it was written"
        assert np.isnan(whole[:, 8 + size :]).all(), "nothing behind it was written"
        return whole[slot, 8 : 8 + size].reshape(self.shape)


def convolve(bench: Bench, x: Array, taps: int, bias: int, slots: Slots, how: Taps, at: int) -> Array:
    tokens, kernel = len(x), how.kernel
    out, how.tokens, how.slot = bench.room(np.float32, tokens, how.channels), tokens, slots.numbers
    addresses = map(ctypes.c_uint64, (bias, slots.address, at, out.address))
    grid = -(-how.channels // 256), tokens + MOST_STOPS * (kernel - 1)
    read = ctypes.c_uint64(bench.put(x)), ctypes.c_uint64(taps), ctypes.c_uint32(how.channels)
    TrunkLaunches(bench.module, bench.stream).launch("hb_convolve", grid, 256, *read, *addresses, how)
    return bench.get(out, np.float32, tokens, how.channels)


@pytest.mark.parametrize(("channels", "kernel", "gated"), [(40, 4, False), (300, 2, False), (48, 3, True)])
def test_convolutions_and_what_they_keep(bench: Bench, channels: int, kernel: int, gated: bool):
    at = 0 if gated else 5
    x, taps = random(1, TOKENS, (3 if gated else 1) * channels + at), random(2, kernel, channels)
    bias, state = random(3, channels), random(4, kernel - 1, channels)
    wide, before = x.astype(np.float64), state.astype(np.float64)
    inputs = wide[:, :channels] * wide[:, 2 * channels :] if gated else wide[:, at:]
    window = np.concatenate((before, inputs))
    sums = bias + sum(window[j : j + TOKENS] * taps[j] for j in range(kernel))
    want = sums * wide[:, channels : 2 * channels] if gated else silu(sums)

    def how() -> Taps:
        return Taps(channels=channels, kernel=kernel, row=x.shape[1], at=at, gated=gated, silu=not gated)

    on_device, slots = (bench.put(taps), bench.put(bias)), Slots(bench, state)
    found = convolve(bench, x, *on_device, slots, how(), passage(bench, FROM, STOPS))
    close(found, want)
    for tokens, slot in STOPS:
        close(slots.get(slot), window[tokens : tokens + kernel - 1])
    np.testing.assert_array_equal(slots.get(FROM), state)
    assert np.isnan(slots.get(1)).all()
    one, source = Slots(bench, state), FROM  # token by token, between two slots
    for t in range(TOKENS):
        target = 1 if source != 1 else 3
        alone = convolve(bench, x[t : t + 1], *on_device, one, how(), passage(bench, source, ((1, target),)))
        np.testing.assert_array_equal(alone[0], found[t])
        source = target
    np.testing.assert_array_equal(one.get(source), slots.get(3))


class Case:
    """A recurrence of H heads: inputs of `TOKENS` tokens, and its outcome in float64."""

    def __init__(self, rule: str, heads: int, key_heads: int, key_dim: int, value_dim: int) -> None:
        self.rule, self.sizes = rule, (heads, key_heads, key_dim, value_dim)
        h, g, k, v = self.sizes
        self.gates = h * k if rule == "kimi_delta" else h
        self.mixed, self.steps = random(1, TOKENS, 2 * g * k + h * v), random(2, TOKENS, 3 + self.gates)
        self.rates, self.state = random(3, TOKENS, h), random(4, h, k, v)
        self.decay, self.bias, self.skip = -np.exp(random(5, self.gates)), random(6, self.gates), random(7, h)

    def parts(self, x: Array) -> tuple[Array, Array, Array]:
        """q, k [T, H, K] and v [T, H, V] of mixed rows."""
        h, g, k, _ = self.sizes
        a, b, rest = np.split(x, (g * k, 2 * g * k), 1)
        q, keys = (np.repeat(each.reshape(len(x), g, k), h // g, 1) for each in (a, b))
        return q, keys, rest.reshape(len(x), h, -1)

    def wanted(self) -> tuple[Array, list[Array]]:
        h, _, k, _ = self.sizes
        q, keys, values = self.parts(self.mixed.astype(np.float64))
        step = np.logaddexp(0, self.steps[:, 3:].astype(np.float64) + self.bias)
        kept = np.broadcast_to(np.exp(self.decay * step).reshape(TOKENS, h, -1), (TOKENS, h, k))
        rate = 1 / (1 + np.exp(-self.rates.astype(np.float64)))
        if self.rule != "mamba2":
            q, keys = (each / np.sqrt((each**2).sum(-1, keepdims=True) + 1e-6) for each in (q, keys))
            q = q / np.sqrt(k)
        state, out, states = self.state.astype(np.float64), np.empty(values.shape), []
        for t in range(TOKENS):
            state = state * kept[t][..., None]
            if self.rule == "mamba2":
                change = step[t][:, None] * values[t]
            else:
                change = rate[t][:, None] * (values[t] - np.einsum("hkv,hk->hv", state, keys[t]))
            state = state + keys[t][..., None] * change[:, None]
            out[t] = np.einsum("hkv,hk->hv", state, q[t])
            states.append(state)
        return out + (self.skip[:, None] * values if self.rule == "mamba2" else 0), states

    def run(self, bench: Bench, slots: Slots, first: int, count: int, at: int) -> Array:
        h, g, k, v = self.sizes
        rows, out = slice(first, first + count), bench.room(np.float32, count, h, v)
        skip = bench.put(self.skip) if self.rule == "mamba2" else 0
        arrays = (self.mixed[rows], self.steps[rows], self.rates[rows], self.decay, self.bias)
        where = RecurrenceAt(*map(bench.put, arrays), skip, slots.address, out.address)
        size = Recurrence(
            h, g, k, v, count, self.mixed.shape[1], 0, g * k, 2 * g * k, self.steps.shape[1], 3, h, slots.numbers
        )
        launches = TrunkLaunches(bench.module, bench.stream)
        launches.launch(f"hb_recur_{self.rule}", (h, -(-v // 32)), 512, where, ctypes.c_uint64(at), size)
        return bench.get(out, np.float32, count, h, v)


@pytest.mark.parametrize("rule", ["gated_delta", "kimi_delta", "mamba2"])
@pytest.mark.parametrize("sizes", [(4, 2, 16, 40), (2, 2, 128, 32), (3, 1, 20, 33)])
def test_recurrences_and_their_states(bench: Bench, rule: str, sizes: tuple[int, int, int, int]):
    case = Case(rule, *sizes)
    want, states = case.wanted()
    slots = Slots(bench, case.state)
    found = case.run(bench, slots, 0, TOKENS, passage(bench, FROM, STOPS))
    close(found, want)
    for tokens, slot in STOPS:
        close(slots.get(slot), states[tokens - 1])
    np.testing.assert_array_equal(slots.get(FROM), case.state)
    assert np.isnan(slots.get(1)).all()
    cut = Slots(bench, case.state)
    parts = [
        case.run(bench, cut, first, count, passage(bench, source, ((count, target),)))
        for first, count, source, target in ((0, 1, FROM, 1), (1, 5, 1, 0), (6, 1, 0, 3))
    ]
    np.testing.assert_array_equal(np.concatenate(parts), found)
    np.testing.assert_array_equal(cut.get(3), slots.get(3))


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("is_silu", [True, False])
@pytest.mark.parametrize(("groups", "width"), [(3, 40), (1, 600)])
def test_gates_and_norms_behind_a_recurrence(bench: Bench, norm_first: bool, is_silu: bool, groups: int, width: int):
    by_group = not norm_first
    y, z = random(1, 2, groups, width), random(2, 2, 7 + groups * width)
    weight = random(3, groups, width) if by_group else random(3, width)
    gates, wide = z[:, 7:].reshape(2, groups, width).astype(np.float64), y.astype(np.float64)
    by = silu(gates) if is_silu else 1 / (1 + np.exp(-gates))
    wide = wide if norm_first else wide * by
    want = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * weight * (by if norm_first else 1)
    at = bench.room(np.float32, 2, groups, width)
    at.write(y, bench.stream)
    how = Gated(width, groups, z.shape[1], 7, by_group, norm_first, is_silu, 1e-5)
    addresses = map(ctypes.c_uint64, (at.address, bench.put(z), bench.put(weight)))
    TrunkLaunches(bench.module, bench.stream).launch("hb_gate_norm", (groups, 2), 256, *addresses, how)
    close(bench.get(at, np.float32, 2, groups, width), want)
