"""What a policy is: router logits and residency in, a decision out. No I/O, no clock, no global state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

from edge_runtime.base.arrays import F32, I32, U8, Indices
from edge_runtime.policy.routed import Routing as Routing
from edge_runtime.policy.routed import first_rows as first_rows

if TYPE_CHECKING:
    from edge_runtime.base.spec import ModelSpec
    from edge_runtime.bundle.calibration import ExpertCalibration
    from edge_runtime.bundle.record import RecordLayout
    from edge_runtime.policy.routing import Router


class Hint(NamedTuple):
    """Experts that may be needed, and how deep.

    Attributes:
        layer_idx: their layer.
        experts: most urgent first.
        tier: to read them at.
        is_spare: only worth reading when the drive has nothing else to do.
    """

    layer_idx: int
    experts: tuple[int, ...]
    tier: int
    is_spare: bool = False


class Decision(NamedTuple):
    """Which experts run for T tokens at one layer, and how precisely.

    Attributes:
        topk_ids: int32 [T, K].
        topk_weights: float32 [T, K]; a weight of exactly 0 means the slot is skipped: not read, not computed.
        tiers: uint8 [E], the tier each expert used here is served at, however deep it is resident; 0 for experts not
            used.
        substituted: (token, rank) uses served below the full tier.
        skipped: uses dropped.
        route_changed: uses of an expert the router did not choose.
        predicted_kld: what this decision is expected to add to the KL divergence, summed over its tokens, in nats; None
            where the policy has no model of it.
        use_order: intp [n], the experts of `tiers` in the order they count as used for eviction, the most recent last;
            None: by number.
        hints: experts worth reading for coming layers, most urgent first, once this layer's own reads are under way.
    """

    topk_ids: I32
    topk_weights: F32
    tiers: U8
    substituted: int = 0
    skipped: int = 0
    route_changed: int = 0
    predicted_kld: float | None = None
    use_order: Indices | None = None
    hints: tuple[Hint, ...] = ()


class Changed(NamedTuple):
    """What the decisions of a pass changed that native code took; as in `Decision`, all summed.

    Attributes:
        substituted: uses served below the full tier.
        skipped: uses dropped.
        route_changed: uses of an expert the router did not choose.
        substituted_to: uses below the full tier by the tier they were served at.
    """

    substituted: int
    skipped: int
    route_changed: int
    substituted_to: Mapping[int, int]


class NativeDecider(Protocol):
    """A policy in native code, see `edge_runtime.policy.native`."""

    def port(self) -> object:
        """Return what native code calls it by, a capsule."""
        ...


class ResidencyView(Protocol):
    """What a policy may know about residency."""

    def resident_tiers(self, layer_idx: int) -> U8:
        """Return uint8 [E]: the tier each expert of the layer is resident at, 0 if it is not."""
        ...


@dataclass(frozen=True)
class PolicyContext:
    """What a policy is built for.

    Attributes:
        num_layers: L, dense layers included.
        router: the model's, for what it prefers and how it weighs.
        tier: the tier that counts as full.
        tier_bytes: bytes of an expert at each tier this run may use; 16 is bfloat16, which has no prefixes.
        calibration: what the exporter measured; None where there is none.
    """

    num_layers: int
    router: Router
    tier: int
    tier_bytes: Mapping[int, int]
    calibration: ExpertCalibration | None = None

    @staticmethod
    def of(
        spec: ModelSpec, layout: RecordLayout, tiers: Iterable[int], router: Router, tier: int,
        calibration: ExpertCalibration | None = None,
    ) -> PolicyContext:  # fmt: skip
        """Return the context of a model: of a bundle's manifest, or of what a trace says of it.

        Args:
            spec: its shape.
            layout: of its records.
            tiers: that this run may use.
            router: the model's.
            tier: the one that counts as full.
            calibration: what the exporter measured.
        """
        return PolicyContext(spec.num_layers, router, tier, {t: layout.tier_bytes(t) for t in tiers}, calibration)

    @cached_property
    def num_experts(self) -> int:
        """E."""
        return self.router.spec.num_experts

    @property
    def top_k(self) -> int:
        """K."""
        return self.router.spec.top_k


class Policy(Protocol):
    """One routing-and-precision policy; one instance serves one engine.

    The order of calls is `begin_sequence` for a new text; for each forward pass `begin_pass`, `decide` for each sparse
    layer in order, and `accept` if the pass has logits.

    The properties say what the rest of the runtime may count on. Nothing asks for a policy's name or class.
    """

    name: str

    @property
    def reads_residency(self) -> bool:
        """Whether `decide` looks at what is resident.

        If it does, the residency it is shown leaves out of account what was read before a layer asked for it: decisions
        would depend on what the drive delivered in time.
        """
        ...

    @property
    def follows_router(self) -> bool:
        """Whether `decide` takes the router's choice as it is, at the full tier, and looks at nothing.

        Then a backend that has every expert in memory may route by itself, and `decide` is not asked.
        """
        ...

    @property
    def native(self) -> NativeDecider | None:
        """What native code asks instead of `decide` and `predict_tiers` for the single token of the next pass.

        It gives the same decisions, but for hints and `predicted_kld`, which it has none of. None: they are asked.
        """
        ...

    @property
    def keeps_history(self) -> bool:
        """Whether decisions of a pass depend on passes before it, of the same text or of others."""
        ...

    @property
    def price(self) -> float:
        """What it pays now to read a byte less, in nats; 0 where it has no price. Eviction rules may look at it."""
        ...

    @property
    def min_tier(self) -> int:
        """The lowest tier this policy may ask for; the full tier if it serves everything there."""
        ...

    @property
    def keeps_base(self) -> bool:
        """Whether every expert is to be in memory at `min_tier` from the start on, and only what lies above it leaves.

        Then residency is always shown as it would be if reads took no time: decisions do not wait for any.
        """
        ...

    @property
    def params(self) -> dict[str, float | int | str | bool]:
        """Parameters as given or defaulted, for reports."""
        ...

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        """Decide one layer for the tokens of `routing`. Must not keep references to its arguments."""
        ...

    def predict_tiers(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> U8:
        """Return uint8 [E], the tiers `decide` would ask for if this routing came. Changes nothing."""
        ...

    def begin_sequence(self) -> None:
        """Forget what belongs to the previous sequence."""
        ...

    def begin_pass(self, num_tokens: int, *, has_logits: bool) -> None:
        """A forward pass over T tokens begins; `accept` follows if `has_logits`."""
        ...

    def accept(self, logits: F32) -> bool:
        """Whether logits float32 [rows, V] of the pass stand; False runs the same tokens once more."""
        ...
