"""MlpSpec, ExpertSpec, SharedSpec: what feed-forward networks compute, streamed ones and dense ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge_runtime.base.spec.checks import need, need_counts

Activation = Literal["silu", "gelu_tanh", "relu2"]
Codes = Literal["linear", "fp4"]
Matrix = Literal["gate", "up", "down"]
_MAX_WIDTH = 1 << 18
_MAX_LIMIT, _MAX_ALPHA, _MAX_OFFSET = 1e6, 100.0, 100.0


@dataclass(frozen=True)
class MlpSpec:
    """A dense feed-forward network: down(act(gate x) * (up x)), or down(act(up x)) where it is not gated."""

    intermediate: int
    gated: bool = True
    activation: Activation = "silu"

    def check(self, where: str) -> None:
        """Refuse impossible sizes.

        Raises:
            ValueError: names the field.
        """
        need_counts(self, {"intermediate": _MAX_WIDTH}, where)


@dataclass(frozen=True)
class ExpertSpec:
    """What one routed expert computes.

    With g = gate x + b_gate and u = up x + b_up, an expert is down(h) + b_down, where

        h = act(min(g, limit)) * (clamp(u, -limit, limit) + up_offset)     gated
        h = act(u)                                                         not gated

    and act is silu(v) = v * sigmoid(alpha v), the tanh form of GELU, or relu(v)^2. gpt-oss has limit 7, alpha 1.702,
    up_offset 1 and biases.

    Attributes:
        intermediate: I, a multiple of 32.
        gated: there is a gate matrix.
        activation: act.
        bias: gate, up and down have biases.
        limit: see above; None: nothing is clamped.
        alpha: slope of silu's sigmoid.
        up_offset: see above.
        codes: what the 4-bit codes of records stand for: equal steps, or 4-bit floats times powers of two
            (docs/format.md, section 1.6).
    """

    intermediate: int
    gated: bool = True
    activation: Activation = "silu"
    bias: bool = False
    limit: float | None = None
    alpha: float = 1.0
    up_offset: float = 0.0
    codes: Codes = "linear"

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """The matrices an expert has, in the order of a record."""
        return ("gate", "up", "down") if self.gated else ("up", "down")

    def check(self, where: str) -> None:
        """Refuse what no kernel computes.

        Raises:
            ValueError: names the field.
        """
        need_counts(self, {"intermediate": _MAX_WIDTH}, where)
        need(self.intermediate % 32 == 0, f"{where}.intermediate", "a multiple of 32", self.intermediate)
        ok = self.limit is None or (self.gated and 1e-3 <= self.limit <= _MAX_LIMIT)
        need(ok, f"{where}.limit", f"0.001 to {_MAX_LIMIT:g}, or null where not gated", self.limit)
        ok = self.alpha == 1 or (self.activation == "silu" and 1e-3 <= self.alpha <= _MAX_ALPHA)
        need(ok, f"{where}.alpha", f"0.001 to {_MAX_ALPHA:g}, and 1 unless activation is 'silu'", self.alpha)
        ok = self.up_offset == 0 or (self.gated and abs(self.up_offset) <= _MAX_OFFSET)
        need(ok, f"{where}.up_offset", f"-{_MAX_OFFSET:g} to {_MAX_OFFSET:g}, and 0 unless gated", self.up_offset)


@dataclass(frozen=True)
class SharedSpec:
    """A feed-forward network every token passes, beside the routed experts of a sparse layer.

    Attributes:
        mlp: what it computes.
        gate: its output is multiplied by the sigmoid of one number, linear in its input.
        parallel: a dense network with norms of its own before and behind it, and one behind the experts (Gemma 4);
            else it has the experts' input, and its output is added to theirs.
    """

    mlp: MlpSpec
    gate: bool = False
    parallel: bool = False
