"""RopeSpec: rotary position embedding, with the ranges its parameters may have."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from edge_runtime.base.spec.checks import need

RopeKind = Literal["default", "linear", "dynamic", "yarn", "llama3", "longrope", "proportional"]
MAX_CONTEXT = 1 << 25
"""Most positions a model may claim, stretched by its rope scaling or not."""
_MAX_THETA = 1e12


@dataclass(frozen=True)
class _Range:
    low: float
    high: float
    required: bool = True
    zero: bool = False
    """Whether 0 stands for the default."""


_FACTOR, _ORIGINAL = _Range(2**-10, 2**16), _Range(1, MAX_CONTEXT)
_BETA, _MSCALE = _Range(1e-3, 1e6, required=False, zero=True), _Range(1e-3, 1e3, required=False, zero=True)
# what each kind computes with; within these ranges every frequency is finite in float32
_PARAMS: dict[str, dict[str, _Range]] = {
    "default": {},
    "linear": {"factor": _FACTOR},
    "dynamic": {"factor": _FACTOR, "original_max_position_embeddings": replace(_ORIGINAL, required=False)},
    "yarn": {
        "factor": _FACTOR, "original_max_position_embeddings": _ORIGINAL, "beta_fast": _BETA, "beta_slow": _BETA,
        "mscale": _MSCALE, "mscale_all_dim": _MSCALE, "attention_factor": _Range(1e-3, 1e3, required=False),
    },
    "llama3": {
        "factor": _FACTOR, "original_max_position_embeddings": _ORIGINAL,
        "low_freq_factor": _Range(1e-3, 1e6), "high_freq_factor": _Range(1e-3, 1e6),
    },
    "longrope": {
        "original_max_position_embeddings": _ORIGINAL,
        "short_mscale": _Range(1e-3, 1e3), "long_mscale": _Range(1e-3, 1e3),
    },
    "proportional": {"partial_rotary_factor": _Range(2**-12, 1), "factor": replace(_FACTOR, required=False)},
}  # fmt: skip
_SWITCHES = {"yarn": ("truncate",)}


@dataclass(frozen=True)
class RopeSpec:
    """Rotary position embedding of the first `dim` numbers R of a head.

    Number i is rotated with number i + R/2 (the two halves), or with its neighbour where numbers go in `pairs`.

    `params` holds the kind's own numbers under transformers' names (factor, original_max_position_embeddings,
    beta_fast, low_freq_factor, ...). Kind "longrope" divides each frequency by a factor of its own and multiplies
    cosines and sines by an mscale: the short ones in sequences that never grow beyond the original context, else the
    long ones.

    Attributes:
        short_factor: R/2 factors of kind "longrope"; None for the others.
        long_factor: the same of long sequences.
    """

    kind: RopeKind
    theta: float
    dim: int
    params: dict[str, float | bool] = field(default_factory=dict)
    short_factor: list[float] | None = None
    long_factor: list[float] | None = None
    pairs: bool = False

    def stretched(self, max_context: int) -> int:
        """Tokens the scaling stretches a context of `max_context` to; 1 without scaling.

        The context of a model with kind "longrope" is the stretched one.
        """
        if self.kind == "default":
            return 1
        if self.kind == "longrope":
            return max_context
        return int(self.params.get("original_max_position_embeddings", max_context) * self.params.get("factor", 1.0))

    def check(self, where: str, *, head_dim: int, max_context: int) -> None:
        """Refuse parameters that are missing, unknown to the kind, or beyond what float32 can compute with.

        Raises:
            ValueError: names the field.
        """
        need(1 < self.theta <= _MAX_THETA, f"{where}.theta", f"above 1, at most {_MAX_THETA:g}", self.theta)
        need(self.dim % 2 == 0 and 0 < self.dim <= head_dim, f"{where}.dim", f"even, at most {head_dim}", self.dim)
        need(self.dim > 2 or self.kind != "dynamic", f"{where}.dim", "above 2 for kind 'dynamic'", self.dim)
        self._check_params(f"{where}.params")
        for name in ("short_factor", "long_factor"):
            self._check_factors(f"{where}.{name}", getattr(self, name))
        longest = self.stretched(max_context)
        need(longest <= MAX_CONTEXT, f"{where}.params", f"a context of at most {MAX_CONTEXT}", longest)

    def is_long(self, context: int) -> bool:
        """Whether a sequence that may grow to so many tokens has the long factors of kind "longrope"."""
        return self.kind == "longrope" and context > self.params["original_max_position_embeddings"]

    def _check_factors(self, where: str, factors: list[float] | None) -> None:
        if self.kind != "longrope":
            need(factors is None, where, "null unless kind is 'longrope'", factors)
            return
        got = None if factors is None else len(factors)
        need(got == self.dim // 2, where, f"{self.dim // 2} factors", got)
        worst = next((f for f in factors or [] if not _FACTOR.low <= f <= _FACTOR.high), None)
        need(worst is None, where, f"{_FACTOR.low:g} to {_FACTOR.high:g}", worst)

    def _check_params(self, where: str) -> None:
        known, switches = _PARAMS[self.kind], _SWITCHES.get(self.kind, ())
        for name, value in self.params.items():
            need(name in known or name in switches, where, f"parameters of kind {self.kind!r}", name)
            need(isinstance(value, bool) == (name in switches), f"{where}.{name}", "a number, or a switch", value)
        for name, allowed in known.items():
            text, got = f"{allowed.low:g} to {allowed.high:g}", self.params.get(name)
            need(got is not None or not allowed.required, f"{where}.{name}", f"{text} for kind {self.kind!r}", got)
            ok = got is None or allowed.low <= got <= allowed.high or (allowed.zero and got == 0)
            need(ok, f"{where}.{name}", text, got)
        if self.kind == "llama3":
            low, high = self.params["low_freq_factor"], self.params["high_freq_factor"]
            need(1.001 * low <= high, f"{where}.high_freq_factor", f"above low_freq_factor = {low}", high)
