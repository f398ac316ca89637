"""The policy in force and what follows from it. Whoever needs one of these asks here; nobody else stores them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from edge_runtime.base.errors import ConfigError
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.manifest import can_look_ahead
from edge_runtime.config.option import AUTO
from edge_runtime.config.options import RuntimeConfig
from edge_runtime.experts.eviction import RULES, EvictionRule, RegisteredRule, RuleContext, create_rule, parse_rule
from edge_runtime.policy import POLICIES, Registered, create_policy, parse_policy
from edge_runtime.policy.base import Policy, PolicyContext
from edge_runtime.policy.routing import Router, router_of

if TYPE_CHECKING:
    from edge_runtime.bundle.calibration import ExpertCalibration

_LOOK_AHEAD = "lookahead:depth=1"


class PolicyChoice(NamedTuple):
    """A policy that was built, and the texts it was asked for by.

    Attributes:
        text: name and parameters of the policy.
        policy: built from them.
        eviction: name and parameters of the eviction rule.
        prefetch: name and parameters of the predictor; 'off' for none.
        is_prefetch_asked: somebody asked for this predictor. If not, nothing is read ahead for a request's own policy
            that looks at residency, unless the policy in force does too.
    """

    text: str
    policy: Policy
    eviction: str
    prefetch: str
    is_prefetch_asked: bool


def prefetch_of(config: RuntimeConfig, *, can_look_ahead: bool) -> str:
    """Return name and parameters of the predictor that options ask for, or that is taken where they leave it open."""
    return config.prefetch if config.prefetch != AUTO else _LOOK_AHEAD if can_look_ahead else "off"


class ActivePolicy:
    """Holds the policy in force with its price, its eviction rule and whether experts are read ahead.

    Start and reload build it the same way, from the options: `choose`, then `make_rule` once it is known how many
    experts fit, then `switch`.

    Args:
        bundle: of the model.
        config: the options it starts with.
    """

    def __init__(self, bundle: Bundle, config: RuntimeConfig) -> None:
        manifest = bundle.manifest
        self._bundle = bundle
        self._calibration: ExpertCalibration | None = None
        router = router_of(manifest.model, bundle.router_data())
        self._context = PolicyContext.of(manifest.model, manifest.layout, manifest.experts.tiers, router, config.tier)
        self.choice = self.choose(config)
        """What is in force."""
        self.policy: Policy = self.choice.policy
        """Decides; during `deciding_with` another one."""
        self.rule: EvictionRule | None = None
        """Chooses which experts are evicted; None until it is known how many fit."""

    @property
    def router(self) -> Router:
        """The model's router, which policies and predictors ask too."""
        return self._context.router

    @property
    def text(self) -> str:
        """Name and parameters, as asked for."""
        return self.choice.text

    @property
    def eviction(self) -> str:
        """Name and parameters of the eviction rule."""
        return self.choice.eviction

    @property
    def prefetch(self) -> str:
        """Name and parameters of the predictor; 'off' for none."""
        return self.choice.prefetch

    @property
    def is_prefetch_asked(self) -> bool:
        """Whether experts are read ahead in every pass; see `PolicyChoice`."""
        return self.choice.is_prefetch_asked

    @property
    def price(self) -> float:
        """Nats the policy pays now to read a byte less; 0 where it has no price."""
        return self.policy.price

    @property
    def min_tier(self) -> int:
        """The lowest tier memory is cut for."""
        return self.choice.policy.min_tier

    def choose(self, config: RuntimeConfig) -> PolicyChoice:
        """Build the policy that options ask for, and decide whether experts are read ahead. Changes nothing.

        Raises:
            ConfigError: the policy or the eviction rule is unknown, or does not fit the model.
            BundleError: the calibration is damaged.
        """
        policy = create_policy(config.policy, self._context_for(POLICIES[parse_policy(config.policy)[0]]))
        prefetch = prefetch_of(config, can_look_ahead=can_look_ahead(self._bundle.manifest))
        return PolicyChoice(config.policy, policy, config.eviction, prefetch, config.prefetch != AUTO)

    def make_rule(self, choice: PolicyChoice, capacity: int) -> EvictionRule:
        """Build the eviction rule of a choice for a cache of so many experts of the full tier.

        Raises:
            ConfigError: it needs a calibration and there is none.
        """
        context = self._context_for(RULES[parse_rule(choice.eviction)[0]])
        return create_rule(choice.eviction, RuleContext.of(context, capacity=capacity, price=lambda: self.policy.price))

    def switch(self, choice: PolicyChoice, rule: EvictionRule) -> None:
        """Put a choice and its rule in force."""
        self.choice, self.policy, self.rule = choice, choice.policy, rule

    def make(self, text: str) -> Policy:
        """Build a policy for single requests beside the one in force.

        Raises:
            ConfigError: unknown, or it asks for tiers below those memory is cut for: they would be read in full, which
                is never what somebody wants who asks for them.
        """
        policy = create_policy(text, self._context_for(POLICIES[parse_policy(text)[0]]))
        if policy.min_tier < self.min_tier:
            raise ConfigError(
                f"policy: {policy.name!r} reads experts at {policy.min_tier} bits, but this engine was opened for "
                f"{self.min_tier} and above. Open it with that policy."
            )
        if policy.keeps_base and not self.choice.policy.keeps_base:
            raise ConfigError(
                f"policy: {policy.name!r} with base=true expects every expert in memory, and this engine was opened "
                "without. Open it with --base-resident."
            )
        return policy

    def is_same(self, text: str) -> bool:
        """Whether a text asks for the policy in force."""
        return parse_policy(text) == parse_policy(self.text)

    @contextmanager
    def deciding_with(self, policy: Policy) -> Iterator[None]:
        """Let another policy decide during a block; usually one that watches and passes on to this one."""
        before, self.policy = self.policy, policy
        try:
            yield
        finally:
            self.policy = before

    def _context_for(self, entry: Registered | RegisteredRule) -> PolicyContext:
        """Return the context of a policy or rule; what the exporter measured is read once somebody needs it."""
        if not entry.needs_calibration:
            return self._context
        if self._calibration is None:
            from edge_runtime.bundle import calibration

            manifest = self._bundle.manifest
            raw = self._bundle.read_part(manifest.part(calibration.NAME), limit=calibration.MAX_BYTES)
            self._calibration = calibration.parse(raw, manifest.model)
        return replace(self._context, calibration=self._calibration)
