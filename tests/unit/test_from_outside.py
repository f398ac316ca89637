"""A policy and an eviction rule of another package: registered before an engine is opened, used like any other."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.base.params import Param
from edge_runtime.experts.eviction import RULES, RegisteredRule, RuleContext
from edge_runtime.experts.eviction.base import KeepingRule
from edge_runtime.policy import POLICIES, Registered
from edge_runtime.policy.base import Decision, PolicyContext, ResidencyView, Routing
from edge_runtime.policy.decisions import keep_first
from edge_runtime.policy.wrappers.watching import OnePass


class FirstOnly(OnePass):
    """Runs the first experts of a token, whatever is resident."""

    name = "first-only"
    reads_residency = False

    def __init__(self, context: PolicyContext, *, count: int) -> None:
        super().__init__(context, {"count": count})
        self._count = count

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        if len(routing.topk_ids) > 1:
            return Decision(routing.topk_ids, routing.topk_weights, self.predict_tiers(layer_idx, routing, residency))
        return keep_first(routing, self._count, self.context)


class ByNumber(KeepingRule):
    """Evicts the expert with the highest number."""

    name = "by-number"

    def __init__(self, context: RuleContext) -> None:
        self.context = context

    def use(self, keys, tiers) -> None: ...

    def scores(self, keys, layer_idx):
        return -keys.astype(np.float64)


@pytest.fixture
def registered(monkeypatch):
    count = Param(1, "experts of a token", "an example", 1)
    monkeypatch.setitem(POLICIES, "first-only", Registered(FirstOnly, {"count": count}, summary="the first experts"))
    monkeypatch.setitem(RULES, "by-number", RegisteredRule(ByNumber, "the highest number"))


def test_an_engine_runs_with_them(registered, model_bundle):
    from edge_runtime.engine.api import Engine
    from edge_runtime.engine.sampler import SamplingParams

    options = {"expert_memory": "3MiB", "context": 64, "threads": 1, "self_check": False}
    with Engine.open(model_bundle, policy="first-only:count=2", eviction="by-number", **options) as engine:
        report = engine.generate("Once upon a time there was", SamplingParams(max_tokens=6, ignore_eos=True))
        assert report.policy == {"name": "first-only", "params": {"count": 2}}
        assert report.experts["skipped"] > 0
        assert report.experts["evicted"] > 0
        assert engine.parts.active.prefetch == "lookahead:depth=1", "it says that it reads no residency"
