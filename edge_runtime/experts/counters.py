"""ExpertCounters: what happened to experts, as totals since opening; differences of two give one request."""

from __future__ import annotations

import copy
import operator
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.policy.base import Changed, Decision

CONTRACT_TIERS = (2, 4, 6, 8)
READ_BOUNDS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Upper bounds of `read_buckets`."""


@dataclass
class ExpertCounters:
    """Totals. A lookup is one expert asked for by one layer in one pass, however many tokens share it.

    Attributes:
        hits: it was resident.
        late: its read was already under way.
        misses: its read starts now.
        upgrades: misses of experts resident at a lower tier: only the missing planes are read.
        bytes_read: bytes that came from the drive; of a read still under way nothing is counted yet.
        read_busy_ns: wall time during which the drive had at least one read to do.
        stall_ns: time the engine waited for experts with nothing to compute.
        read_buckets: records read, by the time from asking for one to having it checked; one more than READ_BOUNDS_S.
        read_ns: sum of those times.
        by_tier: lookups by the tier served.
        hits_by_tier, late_by_tier, misses_by_tier: the same, by what came of them.
        substituted_to: substituted uses by the tier served instead of the full one.
        substituted: (token, rank) uses served below the full tier, as the policy planned.
        skipped: uses dropped by the policy.
        route_changed: uses of an expert the router did not choose.
        predicted_kld: sum of what the policy expected its changes to cost, in nats; None if it has no model.
        decisions_with_kld: decisions it is the sum of.
        fallbacks: passes whose result was not accepted and which ran a second time.
        prefetch_issued: reads started before anyone asked.
        prefetch_used: of those, resident when first asked for.
        prefetch_late: of those, still under way when first asked for.
        prefetch_wasted: of those, evicted or failed without ever being asked for.
        evicted: experts that lost their slot.
        truncated: residents cut to a lower tier.
    """

    hits: int = 0
    late: int = 0
    misses: int = 0
    upgrades: int = 0
    bytes_read: int = 0
    read_busy_ns: int = 0
    stall_ns: int = 0
    read_buckets: list[int] = field(default_factory=lambda: [0] * (len(READ_BOUNDS_S) + 1))
    read_ns: int = 0
    by_tier: dict[int, int] = field(default_factory=lambda: dict.fromkeys(CONTRACT_TIERS, 0))
    hits_by_tier: dict[int, int] = field(default_factory=dict)
    late_by_tier: dict[int, int] = field(default_factory=dict)
    misses_by_tier: dict[int, int] = field(default_factory=dict)
    substituted_to: dict[int, int] = field(default_factory=dict)
    substituted: int = 0
    skipped: int = 0
    route_changed: int = 0
    predicted_kld: float | None = None
    decisions_with_kld: int = 0
    fallbacks: int = 0
    prefetch_issued: int = 0
    prefetch_used: int = 0
    prefetch_late: int = 0
    prefetch_wasted: int = 0
    evicted: int = 0
    truncated: int = 0

    @property
    def lookups(self) -> int:
        """Experts asked for: hits + late + misses."""
        return self.hits + self.late + self.misses

    def set_lookups(self, hits: Sequence[int], late: Sequence[int], misses: Sequence[int]) -> None:
        """Take over lookups by outcome: of each the totals by tier, the number of the tier being the place."""
        self.hits, self.late, self.misses = sum(hits), sum(late), sum(misses)
        for by_tier, totals in (
            (self.hits_by_tier, hits),
            (self.late_by_tier, late),
            (self.misses_by_tier, misses),
            (self.by_tier, [sum(each) for each in zip(hits, late, misses, strict=True)]),
        ):
            by_tier.update((tier, total) for tier, total in enumerate(totals) if total)

    def count_read(self, nanoseconds: int, records: int = 1) -> None:
        """Count records read and checked, each in the time given."""
        self.read_buckets[bisect_left(READ_BOUNDS_S, nanoseconds / 1e9)] += records
        self.read_ns += nanoseconds * records

    def add_decision(self, decision: Decision, full_tier: int) -> None:
        """Count what a policy changed; `full_tier` is what unsubstituted uses are served at."""
        self.substituted += decision.substituted
        self.skipped += decision.skipped
        self.route_changed += decision.route_changed
        if decision.substituted:
            served, by_tier = decision.tiers.tobytes(), self.substituted_to
            for expert, weight in zip(
                decision.topk_ids.ravel().tolist(), decision.topk_weights.ravel().tolist(), strict=True
            ):
                if weight != 0 and (tier := served[expert]) < full_tier:
                    by_tier[tier] = by_tier.get(tier, 0) + 1
        if decision.predicted_kld is not None:
            self.predicted_kld = (self.predicted_kld or 0.0) + decision.predicted_kld
            self.decisions_with_kld += 1

    def add_changed(self, changed: Changed) -> None:
        """Count what decisions of native code changed."""
        self.substituted += changed.substituted
        self.skipped += changed.skipped
        self.route_changed += changed.route_changed
        for tier, uses in changed.substituted_to.items():
            self.substituted_to[tier] = self.substituted_to.get(tier, 0) + uses

    def snapshot(self) -> ExpertCounters:
        """Return a copy that stands still."""
        found = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, (dict, list)):
                setattr(found, name, value.copy())
        return found

    def since(self, before: ExpertCounters) -> ExpertCounters:
        """Return what was counted after the snapshot `before`."""
        return self._with(before, operator.sub)

    def plus(self, other: ExpertCounters) -> ExpertCounters:
        """Return the sums of these and other totals."""
        return self._with(other, operator.add)

    def _with(self, other: ExpertCounters, combine: Callable[[Any, Any], Any]) -> ExpertCounters:
        result = ExpertCounters()
        for name, value in vars(self).items():
            old = getattr(other, name)
            if isinstance(value, dict):
                keys = dict.fromkeys([*value, *old])
                setattr(result, name, {key: combine(value.get(key, 0), old.get(key, 0)) for key in keys})
            elif isinstance(value, list):
                setattr(result, name, [combine(new, been) for new, been in zip(value, old, strict=True)])
            elif value is not None or old is not None:
                setattr(result, name, combine(value or 0, old or 0))
        if not result.decisions_with_kld:
            result.predicted_kld = None  # nothing to sum, though a policy before had a model
        return result

    def to_json(self, num_tokens: int | None = None) -> dict[str, Any]:
        """Return the `experts` object of the output contract.

        Args:
            num_tokens: tokens run, for bytes_per_token; None or 0 leaves it null.
        """
        return {
            "lookups": self.lookups,
            "hits": self.hits,
            "late": self.late,
            "misses": self.misses,
            "upgrades": self.upgrades,
            "bytes_read": self.bytes_read,
            "bytes_per_token": round(self.bytes_read / num_tokens, 1) if num_tokens else None,
            "stall_ms": round(self.stall_ns / 1e6, 3),
            "read_gbps": round(self.bytes_read / self.read_busy_ns, 3) if self.read_busy_ns else None,
            "by_tier": {str(tier): count for tier, count in sorted(self.by_tier.items())},
            "substituted": self.substituted,
            "skipped": self.skipped,
            "route_changed": self.route_changed,
            "predicted_kld_per_token": (
                round(self.predicted_kld / num_tokens, 9) if num_tokens and self.predicted_kld is not None else None
            ),
            "fallbacks": self.fallbacks,
            "prefetch": {
                "issued": self.prefetch_issued,
                "used": self.prefetch_used,
                "late": self.prefetch_late,
                "wasted": self.prefetch_wasted,
            },
            "evicted": self.evicted,
            "truncated": self.truncated,
        }
