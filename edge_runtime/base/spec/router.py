"""RouterSpec: how a model chooses experts from the router's logits, and how it weighs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge_runtime.base.spec.checks import need, need_counts

Score = Literal["softmax", "sigmoid", "sqrt_softplus"]
_LIMITS = {"num_experts": 1 << 14, "top_k": 1 << 10}
_MAX_SCALE, _MAX_EPSILON, _MAX_NEAR = 1e4, 1e-3, 2.0


@dataclass(frozen=True)
class GroupSpec:
    """Groups of neighbouring experts, of which a token may use some.

    Attributes:
        count: groups, of equal size.
        chosen: groups a token may use: those of the highest score.
        score: of a group: its best expert's, or the sum of its two best ones'.
    """

    count: int
    chosen: int
    score: Literal["max", "top2_sum"] = "max"


@dataclass(frozen=True)
class RouterSpec:
    """The rule from logits to experts and weights. `edge_runtime.policy.routing` applies it, and nothing else does.

    With z the logits of a token (plus a bias a layer if `logit_bias`) and s = score(z):

    1. The choice compares s; plus a bias if `selection_bias`; within the best groups only, if there are `groups`. The
       first `hashed_layers` sparse layers do not compare: the token's id names its experts.
    2. The weight of a chosen expert is its s, without the bias. With `softmax_over` "chosen" or "near" the choice
       compares z instead. "chosen": the weights are the softmax over the chosen experts' z. "near" (sparsemixer,
       Phi-3.5-MoE, arXiv 2409.12136): the chosen are taken by falling z; the weight of each is its softmax among those
       not taken before it whose (top - z) / max(|z|, top) is at most `near`, top being the greatest z of them.
    3. If `normalise`, the weights are divided by their sum, which counts as `norm_floor` at least, plus `norm_epsilon`.
    4. They are multiplied by `scale`, and by a factor of each expert if `expert_scale`.

    Biases, factors and the table of hashed layers are data of the bundle: `edge_runtime.bundle.router_data`.

    Attributes:
        num_experts: E, of every sparse layer.
        top_k: K.
        score: softmax over all experts, sigmoid, or sqrt(softplus).
        softmax_over: see 2.
        near: see 2.
        normalise: see 3.
        norm_epsilon: see 3.
        norm_floor: see 3.
        scale: see 4.
        logit_bias: a bias is added to the logits.
        selection_bias: a bias is added for the choice alone.
        groups: see 1.
        expert_scale: see 4.
        hashed_layers: see 1.
        norm_scale: z is linear in the RMS norm of the residual stream, with a weight of the router's own, times this
            (Gemma 4); None: in what the experts see.
    """

    num_experts: int
    top_k: int
    score: Score = "softmax"
    softmax_over: Literal["all", "chosen", "near"] = "all"
    normalise: bool = False
    norm_epsilon: float = 0.0
    scale: float = 1.0
    logit_bias: bool = False
    selection_bias: bool = False
    groups: GroupSpec | None = None
    expert_scale: bool = False
    hashed_layers: int = 0
    near: float = 0.0
    norm_scale: float | None = None
    norm_floor: float = 0.0

    def check(self, where: str, *, num_sparse: int) -> None:
        """Refuse what no router can be, in a model of so many sparse layers.

        Raises:
            ValueError: names the field.
        """
        need_counts(self, _LIMITS, where)
        most = self.num_experts
        need(self.top_k <= most, f"{where}.top_k", f"at most num_experts = {most}", self.top_k)
        alone = self.softmax_over == "all" or (self.score == "softmax" and not self.normalise)
        need(alone, f"{where}.softmax_over", "'all' unless score is 'softmax' and normalise false", self.softmax_over)
        epsilon, has_sum = self.norm_epsilon, self.normalise
        ok = 0 <= epsilon <= _MAX_EPSILON and (has_sum or epsilon == 0)
        need(ok, f"{where}.norm_epsilon", f"0 to {_MAX_EPSILON:g}, and 0 unless normalise", epsilon)
        floor = self.norm_floor
        need(
            0 <= floor <= 1 and (has_sum or floor == 0), f"{where}.norm_floor", "0 to 1, and 0 unless normalise", floor
        )
        need(1 / _MAX_SCALE <= self.scale <= _MAX_SCALE, f"{where}.scale", f"1e-4 to {_MAX_SCALE:g}", self.scale)
        norm = self.norm_scale
        need(norm is None or 1e-6 <= norm <= _MAX_SCALE, f"{where}.norm_scale", f"1e-06 to {_MAX_SCALE:g}", norm)
        hashed = self.hashed_layers
        need(0 <= hashed <= num_sparse, f"{where}.hashed_layers", f"0 to {num_sparse} sparse layers", hashed)
        is_near = self.softmax_over == "near"
        ok = 0 <= self.near <= _MAX_NEAR and (is_near or self.near == 0)
        need(ok, f"{where}.near", f"0 to {_MAX_NEAR:g}, and 0 unless softmax_over is 'near'", self.near)
        by_logit = not (self.selection_bias or self.groups or hashed)
        need(
            not is_near or by_logit, f"{where}.softmax_over", "no bias for the choice, groups or hashed layers", "near"
        )
        if self.groups is not None:
            self._check_groups(self.groups, f"{where}.groups")

    def _check_groups(self, groups: GroupSpec, where: str) -> None:
        ok = 2 <= groups.count <= self.num_experts and self.num_experts % groups.count == 0
        need(ok, f"{where}.count", f"a divisor of num_experts = {self.num_experts}, at least 2", groups.count)
        size = self.num_experts // groups.count
        need(size > 1 or groups.score == "max", f"{where}.score", "'max' for groups of one expert", groups.score)
        ok = 1 <= groups.chosen <= groups.count and groups.chosen * size >= self.top_k
        need(ok, f"{where}.chosen", f"groups that hold top_k = {self.top_k} experts", groups.chosen)
