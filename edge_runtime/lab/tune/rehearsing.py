"""Rehearses a candidate that changes what is said: a short run that counts what it reads. No clock counts.

Experts that are left out, replaced or coarser change the text that follows, and so what is asked of the cache later. No
trace of other settings tells that.
"""

from __future__ import annotations

from collections.abc import Callable

from edge_runtime.engine.api import Engine
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.lab.tune.measurement import Workload
from edge_runtime.lab.tune.predict import Reads
from edge_runtime.lab.tune.workload import sampling
from edge_runtime.policy.base import Decision, Policy, ResidencyView, Routing
from edge_runtime.policy.wrappers.watching import Watching


class CountsBatches(Watching):
    """Wraps a policy and counts the layers that had something read. Implements `Policy`.

    Args:
        inner: decides.
        counters: returns the totals of the cache.
    """

    def __init__(self, inner: Policy, counters: Callable[[], ExpertCounters]) -> None:
        super().__init__(inner)
        self._counters = counters
        self._asked = self.count = 0

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        """See `Policy.decide`. By now the layer before has asked for what it read."""
        self.look()
        return super().decide(layer_idx, routing, residency)

    def look(self) -> None:
        """Count the layer that ran last, behind a pass too."""
        now = self._counters()
        asked = now.misses + now.late
        self.count += asked > self._asked
        self._asked = asked


def rehearse(engine: Engine, workload: Workload) -> Reads:
    """Run a workload as a measurement does, and return what its decoded tokens read.

    Args:
        engine: nobody else uses it meanwhile; reads nothing ahead.
        workload: what is run.
    """
    cache = engine.parts.cache
    watching = CountsBatches(engine.parts.active.policy, lambda: cache.counters)
    tokens, batches, total = 0, 0, ExpertCounters()
    with engine.deciding_with(watching):
        for number, prompt in enumerate(workload.prompts):
            stream = engine.stream(prompt, sampling(workload, number))
            next(stream)
            watching.look()
            before, batches_before = cache.counters, watching.count
            decoded = sum(1 for _ in stream)
            watching.look()
            if number >= workload.warmup:
                tokens += decoded
                batches += watching.count - batches_before
                total = total.plus(cache.counters.since(before))
    uses = {tier: count / tokens for tier, count in total.by_tier.items() if count}
    return Reads(total.bytes_read / tokens, batches / tokens, uses)
