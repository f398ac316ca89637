"""Rotary position embedding: cosines and sines for every kind the exporter accepts, as transformers computes them.

Frequencies are float32 in the same order of operations as transformers, so that long positions agree. Parameter names
are transformers' (`RopeSpec.params`).
"""

from __future__ import annotations

import math

import numpy as np

from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import RopeSpec

_ONE = np.float32(1)


class Rotary:
    """Computes cos and sin of a model's rotary embedding."""

    def __init__(self, rope: RopeSpec, max_context: int) -> None:
        """Take the model's rope and its maximal context, from which dynamic scaling starts.

        Raises:
            ValueError: a parameter the kind needs is missing.
        """
        self._rope = rope
        self._max_context = max_context
        self._scale = np.float32(_attention_factor(rope, 0))
        self._inv_freq = inverse_frequencies(rope, max_context, 0)

    def cos_sin(self, start: int, tokens: int, context: int = 0) -> tuple[F32, F32]:
        """Return cos and sin, float32 [T, R/2], for positions start .. start + T - 1, attention factor included.

        Args:
            start: first position.
            tokens: T.
            context: tokens the sequence may grow to; matters for kind "longrope", so that all keys of a sequence are
                rotated alike however it is cut into passes.
        """
        inv_freq, scale = self._inv_freq, self._scale
        if self._rope.is_long(context):
            inv_freq = inverse_frequencies(self._rope, self._max_context, context)
            scale = np.float32(_attention_factor(self._rope, context))
        if self._rope.kind == "dynamic" and start + tokens > self._max_context:
            inv_freq = inverse_frequencies(self._rope, self._max_context, start + tokens)
        angles = np.arange(start, start + tokens, dtype=np.float32)[:, None] * inv_freq
        cos: F32 = np.cos(angles) * scale
        sin: F32 = np.sin(angles) * scale
        return cos, sin


def inverse_frequencies(rope: RopeSpec, max_context: int, seq_len: int) -> F32:
    """Return float32 [R/2].

    Args:
        rope: kind, theta, rotated dims R and parameters.
        max_context: the model's max_position_embeddings.
        seq_len: largest position of the call + 1; matters for dynamic scaling beyond max_context only. For kind
            "longrope" the tokens the sequence may grow to.
    """
    if rope.kind == "yarn":
        return _yarn(rope)
    if rope.kind == "longrope":
        factors = rope.long_factor if rope.is_long(seq_len) else rope.short_factor
        return np.asarray(_ONE / (np.asarray(factors, np.float32) * _powers(rope.theta, rope.dim)), np.float32)
    if rope.kind == "proportional":
        return _proportional(rope)
    base = _dynamic_base(rope, max_context, seq_len) if rope.kind == "dynamic" else rope.theta
    plain: F32 = _ONE / _powers(base, rope.dim)
    if rope.kind == "linear":
        plain /= np.float32(_need(rope, "factor"))
    return _llama3(rope, plain) if rope.kind == "llama3" else plain


def _proportional(rope: RopeSpec) -> F32:
    """The first share of the pairs turns as if all did; the others stay."""
    turning = int(_need(rope, "partial_rotary_factor") * rope.dim // 2)
    plain = np.zeros(rope.dim // 2, np.float32)
    plain[:turning] = _ONE / _powers(rope.theta, rope.dim)[:turning]
    plain /= np.float32(rope.params.get("factor", 1.0))
    return plain


def _powers(base: float, dim: int) -> F32:
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    powers: F32 = np.power(np.float32(base), exponents)
    return powers


def _dynamic_base(rope: RopeSpec, max_context: int, seq_len: int) -> float:
    """NTK-aware scaling: a larger base once the sequence is longer than the model was trained for."""
    factor = _need(rope, "factor")
    stretch = factor * max(seq_len, max_context) / max_context - (factor - 1)
    return float(rope.theta * stretch ** (rope.dim / (rope.dim - 2)))


def _llama3(rope: RopeSpec, plain: F32) -> F32:
    """Long wavelengths are divided by the factor, short ones kept, those between interpolated."""
    factor, old = _need(rope, "factor"), _need(rope, "original_max_position_embeddings")
    low, high = _need(rope, "low_freq_factor"), _need(rope, "high_freq_factor")
    wavelength = np.float32(2 * math.pi) / plain
    scaled = np.where(wavelength > old / low, plain / np.float32(factor), plain)
    smooth = ((np.float32(old) / wavelength - np.float32(low)) / np.float32(high - low)).astype(np.float32)
    between = (_ONE - smooth) * scaled / np.float32(factor) + smooth * scaled
    medium = (wavelength >= old / high) & (wavelength <= old / low)
    return np.where(medium, between, scaled).astype(np.float32)


def _yarn(rope: RopeSpec) -> F32:
    """Interpolate slow dims, keep fast ones, with a linear ramp between the two correction dims."""
    factor, old = np.float32(_need(rope, "factor")), _need(rope, "original_max_position_embeddings")
    powers = _powers(rope.theta, rope.dim)

    def correction_dim(rotations: float) -> float:
        return rope.dim * math.log(old / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low = correction_dim(rope.params.get("beta_fast") or 32)
    high = correction_dim(rope.params.get("beta_slow") or 1)
    if rope.params.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    if low == high:
        high += 0.001
    steps = (np.arange(rope.dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    keep = _ONE - np.clip(steps, 0, 1).astype(np.float32)
    mixed: F32 = _ONE / (factor * powers) * (_ONE - keep) + _ONE / powers * keep
    return mixed


def _attention_factor(rope: RopeSpec, context: int) -> float:
    """Return what cos and sin of a sequence of at most `context` tokens are multiplied with."""
    if rope.kind == "longrope":
        return _need(rope, "long_mscale" if rope.is_long(context) else "short_mscale")
    if rope.kind != "yarn":
        return 1.0
    given = rope.params.get("attention_factor")
    if given is not None:
        return float(given)
    factor = _need(rope, "factor")
    mscale, all_dim = rope.params.get("mscale"), rope.params.get("mscale_all_dim")
    if mscale and all_dim:
        return _mscale(factor, mscale) / _mscale(factor, all_dim)
    return _mscale(factor, 1.0)


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _need(rope: RopeSpec, name: str) -> float:
    if name not in rope.params:
        raise ValueError(f"rope: parameter {name!r} of kind {rope.kind!r} is missing")
    return float(rope.params[name])
