"""What an eviction rule is: it scores resident experts; the lowest goes first. It decides nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from edge_runtime.base.arrays import F32, F64, I32, U8, Keys
from edge_runtime.policy.base import PolicyContext

if TYPE_CHECKING:
    from edge_runtime.bundle.calibration import ExpertCalibration
    from edge_runtime.experts.native import UseForecast


@dataclass(frozen=True)
class RuleContext:
    """What a rule is built for.

    Attributes:
        num_layers: L, dense layers included.
        num_experts: E.
        tier_bytes: bytes of an expert at each tier a use may be served at.
        full_tier: the tier that counts as full.
        top_k: K.
        capacity: experts of the full tier the cache holds.
        calibration: what the exporter measured; None where there is none.
        price: asks the active policy what it pays now for a byte, in nats; 0 where it has no price.
    """

    num_layers: int
    num_experts: int
    tier_bytes: Mapping[int, int]
    full_tier: int
    top_k: int = 1
    capacity: int = 0
    calibration: ExpertCalibration | None = None
    price: Callable[[], float] = lambda: 0.0

    @staticmethod
    def of(context: PolicyContext, *, capacity: int, price: Callable[[], float]) -> RuleContext:
        """Build a rule for the model a policy is built for."""
        return RuleContext(
            num_layers=context.num_layers,
            num_experts=context.num_experts,
            tier_bytes=context.tier_bytes,
            full_tier=context.tier,
            top_k=context.top_k,
            capacity=capacity,
            calibration=context.calibration,
            price=price,
        )


class EvictionRule(Protocol):
    """Scores experts; the lowest score is evicted first. A key is layer_idx * E + expert_idx."""

    name: str

    def begin_sequence(self) -> None:
        """Forget what belongs to the previous sequence."""
        ...

    def begin_pass(self) -> None:
        """A forward pass (one token, or one chunk of a prompt) begins."""
        ...

    def resize(self, capacity: int) -> None:
        """The cache holds so many experts of the full tier from now on."""
        ...

    def use(self, keys: Keys, tiers: U8) -> None:
        """Note that distinct experts intp [n] are used in this pass, the last one last, served at tiers uint8 [n]."""
        ...

    def scores(self, keys: Keys, layer_idx: int) -> F32 | F64:
        """Return a fresh array [S], lowest goes first, for residents intp [S] while layer `layer_idx` needs room.

        Entries whose key is -1 are ignored by the caller.
        """
        ...


@runtime_checkable
class TruncatingRule(EvictionRule, Protocol):
    """A rule that scores planes too, so that truncating one expert is held against evicting another."""

    def plane_scores(self, keys: Keys, tiers: U8, layer_idx: int) -> F64:
        """Return a fresh float64 [S]: scores of the deepest plane of residents intp [S] at tiers uint8 [S].

        On the scale of `scores`; entries of experts without planes, or whose key is -1, are ignored by the caller.
        """
        ...


@runtime_checkable
class OrderedRule(EvictionRule, Protocol):
    """A rule that wants to know which token of a pass uses what: to it a prompt is as good as its tokens one by one."""

    def begin_tokens(self, num_tokens: int) -> None:
        """A forward pass of so many tokens begins: called in place of `begin_pass`."""
        ...

    def use_in_order(self, layer_idx: int, tiers: U8, topk_ids: I32) -> None:
        """Note what each token of a pass uses: called in place of `use` where there are several tokens.

        Args:
            layer_idx: the layer.
            tiers: uint8 [E], the tier each expert is served at; 0: not used, whoever names it.
            topk_ids: int32 [T, K], in the order of the tokens.
        """
        ...


@runtime_checkable
class NativeRule(EvictionRule, Protocol):
    """A rule that native code may ask without Python in between: `use` and `scores` pass on to it unchanged."""

    forecast: UseForecast


class KeepingRule:
    """Defaults of a rule that keeps its records over sequences and does not look at the size of the cache."""

    def begin_sequence(self) -> None:
        """Keep everything."""

    def begin_pass(self) -> None:
        """Nothing to note."""

    def resize(self, capacity: int) -> None:
        """Nothing to change."""
