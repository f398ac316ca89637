"""Rate-distortion (ours): each use of an expert takes the tier, or the skip, with the least loss plus price of bytes.

For one token at one layer, expert i with weight w_i, resident at tier r, and every tier t of the bundle::

    loss(i, t)    = quantise_l * (w_i * norm_i)^2 * (error_i[t]^2 - error_i[full]^2)     in nats
    loss(i, skip) = skip_l     * (w_i * norm_i)^2
    bytes(i, t)   = what is missing from r to t; 0 up to r
    choose t minimising  loss(i, t) * (1 + later_i / w_i^2) + (price + opportunity_cost) * bytes(i, t)

`norm`, `error`, `quantise` and `skip` were measured by ``hobbit-export --calibrate`` (docs/format.md, section 5).
`later_i` is the squared weight the expert is expected to carry in the next `horizon` tokens. A read serves those uses
too: an expert that is used often is read at its first use, however small its weight, a rare one only for a use of large
weight. The estimate starts from the calibration text, which counts as 64 tokens, and follows what is seen.
`opportunity_cost` is the loss that evicted residents would have saved (see `OpportunityCost`). The price is moved so
that the predicted loss a token is ``max_kld`` (see `PriceController`).

With ``base`` every expert is in memory at the lowest tier, and only planes above it come and go. A use then waits for
its planes only if the budget asks for it::

    choose t minimising  loss(i, t) + price * bytes(i, t)

which with a budget that holds every expert at the lowest tier is the deepest that is here. Planes that save more in
coming uses than those they displace are read in the background, the best for their bytes first, and serve from the
layer's next pass on.

A skip leaves the other weights as they are, as when it was measured. A resident expert that the router did not choose
replaces a skipped one where calibration found the loss to be smaller. The first expert of a token is never skipped.
"""

from __future__ import annotations

from edge_runtime.base.arrays import U8
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.params import Param
from edge_runtime.policy.base import Decision, PolicyContext, ResidencyView, Routing
from edge_runtime.policy.decisions import full_decision
from edge_runtime.policy.hobbit import low_tier
from edge_runtime.policy.rate_distortion.read_choice import ReadChoice
from edge_runtime.policy.wrappers.watching import OnePass

PARAMS = {
    "max_kld": Param(0.01, "KL divergence a token the policy may cost, in nats; 0 changes nothing", "ours", 0, 10),
    "low": Param(2, "the lowest tier it may use", "ours", 2, 16),
    "memory": Param(256, "tokens over which an expert's use is estimated", "ours", 1, 1e6),
    "horizon": Param(128, "tokens ahead whose uses a read is credited with; 0: this token's only", "ours", 0, 1e6),
    "base": Param(
        False, "keep every expert in memory at the lowest tier; read deeper planes in the background", "ours"
    ),
    "upgrades": Param(1, "with base: experts of a layer deepened in the background, per pass", "ours", 0, 1e4),
}
TUNING_CANDIDATES = (
    "max_kld={budget:g},base=true",
    "max_kld={half:g},base=true",
    "max_kld={budget:g}",
    "max_kld={half:g}",
    "max_kld={budget:g},low=4",
)


class RateDistortion(OnePass):
    """See the module. Implements `Policy`.

    Args:
        context: what it is built for; must hold a calibration that was measured on a text.
        max_kld: see `PARAMS`, and likewise the others.
        low: see `PARAMS`.
        memory: see `PARAMS`.
        horizon: see `PARAMS`.
        base: see `PARAMS`.
        upgrades: see `PARAMS`.

    Raises:
        ConfigError: the bundle was exported without --calibrate, or has no such tier; or there is nothing above the
            base.
    """

    name = "rate-distortion"

    def __init__(
        self, context: PolicyContext, *, max_kld: float, low: int, memory: int, horizon: int, base: bool, upgrades: int
    ) -> None:
        super().__init__(
            context,
            {"max_kld": max_kld, "low": low, "memory": memory, "horizon": horizon, "base": base, "upgrades": upgrades},
        )
        least = low_tier(context, min(low, context.tier), "policy 'rate-distortion'.low")
        # deepest first, so that equal costs go to the better tier
        self._tiers = sorted((t for t in context.tier_bytes if least <= t <= context.tier), reverse=True)
        if context.tier == 16:  # bfloat16 is a file of its own: no other tier is a prefix of it
            self._tiers = [16]
        if base:
            self._require_a_base(max_kld)
        self.keeps_base = base
        self._model = None
        if max_kld > 0:
            self._model = ReadChoice(
                context, self._tiers, budget=max_kld, memory=memory, horizon=horizon,
                base=self._tiers[-1] if base else 0, upgrades=upgrades,
            )  # fmt: skip
        self._pass_loss = self._pass_bytes = self._pass_resident = 0.0
        self._tokens = 0

    def _require_a_base(self, max_kld: float) -> None:
        """Refuse a base that nothing lies above, or that no use may be served at."""
        where = "policy 'rate-distortion'.base (--base-resident)"
        if len(self._tiers) < 2:
            raise ConfigError(
                f"{where}: the full tier is {self.context.tier}, and no tier of this bundle lies below it in the same "
                f"record, from {self._tiers[-1]} on. Give another --tier, or leave it out."
            )
        if not max_kld:
            raise ConfigError(
                f"{where}: with a budget of 0 every use waits for the full tier. Give --max-kld above 0, or leave it "
                "out."
            )

    @property
    def min_tier(self) -> int:
        """See `Policy.min_tier`: with a budget, the lowest tier it may use."""
        return self._tiers[-1] if self._model else self.context.tier

    @property
    def reads_residency(self) -> bool:  # type: ignore[override]
        """See `Policy.reads_residency`: with a budget, bytes that are here need not be read."""
        return self._model is not None

    @property
    def keeps_history(self) -> bool:  # type: ignore[override]
        """See `Policy.keeps_history`: with a budget, rates of use and the price follow the text."""
        return self._model is not None

    @property
    def price(self) -> float:
        """See `Policy.price`: 0 without a budget."""
        return self._model.price if self._model else 0.0

    def begin_sequence(self) -> None:
        """See `Policy.begin_sequence`; rates of use and the price outlive a text."""
        if self._model:
            self._model.control.begin_sequence()

    def begin_pass(self, num_tokens: int, *, has_logits: bool) -> None:
        """See `Policy.begin_pass`; takes what the pass before lost and read into account."""
        if self._model and self._tokens:
            self._model.control.spent(self._pass_loss, self._tokens)
            self._model.opportunity_cost.end_pass(self._pass_bytes, self._pass_resident)
            self._pass_loss = self._pass_bytes = self._pass_resident = 0.0
        self._tokens = num_tokens

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        """See `Policy.decide`."""
        model = self._model
        if model is None:
            return full_decision(routing, self.context)._replace(predicted_kld=0.0)
        resident = residency.resident_tiers(layer_idx)
        decision, read_bytes, resident_bytes = model.decide(layer_idx, routing, resident)
        self._pass_bytes += read_bytes
        self._pass_resident += resident_bytes
        self._pass_loss += decision.predicted_kld or 0.0
        if model.opportunity_cost.is_observed(layer_idx):
            model.note_residents(layer_idx, resident)
        return decision

    def predict_tiers(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> U8:
        """See `Policy.predict_tiers`: the tiers that pay at the present price."""
        if self._model is None:
            return super().predict_tiers(layer_idx, routing, residency)
        return self._model.predict_tiers(layer_idx, routing, residency.resident_tiers(layer_idx))
