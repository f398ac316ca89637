"""The rate-distortion choice for one token at one layer, written from its formulas in plain Python.

Shares no code with the policy. Losses and bytes are given as functions of expert and tier.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp


@dataclass
class Expected:
    served: list[int]  # of what the router chose
    ids: list[int]
    weights: list[float]
    tiers: list[int]
    counts: tuple[int, int, int]  # substituted, skipped, changed
    loss: float
    read: float


@dataclass
class Costs:
    """Nats of a squared weight of 1 at each tier, of a skip, and a substitute's share of it; bytes of each tier."""

    loss: dict[int, float]
    skip: float
    share: float
    size: dict[int, int]
    price: float
    opportunity_cost: float
    horizon: float
    base: int = 0

    @property
    def full(self) -> int:
        return max(self.size)

    def lost(self, tier: int) -> float:
        return self.loss[tier] if tier else self.skip

    def cost(self, weight: float, rate: float, held: int, tier: int) -> float:
        missing = max(self.size.get(tier, 0) - self.size.get(held, 0), 0)
        saved = (self.lost(held) - self.lost(tier)) * self.horizon * rate - self.opportunity_cost * missing
        return self.lost(tier) * weight**2 + self.price * missing - (0 if self.base else max(saved, 0))


def uses_after(powers: list[float], tokens: float, keep: float, ids: list[int], weights: list[float]) -> list[float]:
    """The fading mean squared weight of every expert after one more token."""
    new = [power * tokens * keep for power in powers]
    for expert, weight in zip(ids, weights, strict=True):
        new[expert] += weight**2
    return [each / (tokens * keep + 1) for each in new]


def choose(
    costs: Costs, rates: list[float], logits: list[float], ids: list[int], weights: list[float], residents: list[int],
    *, normalise: bool,
) -> Expected:  # fmt: skip
    served = [
        _tier(costs, rates[e], w, residents[e], rank == 0) for rank, (e, w) in enumerate(zip(ids, weights, strict=True))
    ]
    losses = [costs.lost(t) * w**2 for t, w in zip(served, weights, strict=True)]
    read = sum(max(costs.size.get(t, 0) - costs.size.get(residents[e], 0), 0) for t, e in zip(served, ids, strict=True))
    found, given = list(ids), [w if t else 0.0 for t, w in zip(served, weights, strict=True)]
    tiers = [0] * len(logits)
    for expert, tier in zip(ids, served, strict=True):
        tiers[expert] = tier
    spare = sorted((e for e, tier in enumerate(residents) if tier and e not in ids), key=lambda e: (-logits[e], e))
    changed = []
    if costs.share < 1:
        for rank, expert in zip([r for r, tier in enumerate(served) if not tier], spare, strict=False):
            found[rank], tiers[expert] = expert, residents[expert]
            given[rank] = given[0] * exp(logits[expert] - logits[ids[0]])
            losses[rank] *= costs.share
            changed.append(rank)
        if normalise:
            total = sum(given)
            given = [w / total if rank in changed else w for rank, w in enumerate(given)]
    substituted = sum(0 < tier < costs.full and w != 0 for tier, w in zip(served, weights, strict=True))
    skipped = given.count(0.0) - list(weights).count(0.0)
    changes = sum(given[rank] != 0 for rank in changed)
    return Expected(served, found, given, tiers, (substituted, skipped, changes), sum(losses), read)


def deepened(
    costs: Costs, rates: list[float], ids: list[int], served: list[int], residents: list[int], upgrades: int
) -> dict[int, int]:
    """Over a base: what is read in the background, of the experts that save most in later uses for their bytes."""
    savings = []
    for rank, (expert, tier) in enumerate(zip(ids, served, strict=True)):
        there = max(tier, residents[expert])
        found = [(costs.opportunity_cost, 0)]
        for deeper in sorted((t for t in costs.size if t > there), reverse=True):
            saved = (costs.lost(there) - costs.lost(deeper)) * costs.horizon * rates[expert]
            found.append((saved / (costs.size[deeper] - costs.size[there]), deeper))
        rate, to = max(found, key=lambda one: one[0])
        if to:
            savings.append((-rate, rank, expert, to))
    return {expert: to for _, _, expert, to in sorted(savings)[:upgrades]}


def _tier(costs: Costs, rate: float, weight: float, held: int, is_heaviest: bool) -> int:
    if held == costs.full:
        return held
    options = sorted(costs.size, reverse=True) + ([] if is_heaviest else [0])
    return min(options, key=lambda tier: costs.cost(weight, rate, held, tier))
