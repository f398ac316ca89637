"""Decoding on paper for tests of reading ahead: a scripted drive, a predictor that knows, and random choices."""

from __future__ import annotations

import numpy as np
from fakes import FakeStore
from policy_cases import context, route

from edge_runtime.backends.cpu.space import HostSpace
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.eviction import RuleContext, create_rule
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.units import UnitLedger, UnitSizes
from edge_runtime.policy import create_policy
from edge_runtime.policy.base import Routing
from edge_runtime.policy.joint import PassPolicies
from edge_runtime.prefetch.governor import Governor
from edge_runtime.prefetch.prefetcher import Prefetcher

PAGE, L, E, K = 4096, 4, 16, 2
SHAPE = context(num_layers=L, num_experts=E, top_k=K)


def routing_of(*experts: int) -> Routing:
    logits = np.zeros((1, E), np.float32)
    for rank, expert in enumerate(experts):
        logits[0, expert] = 9 - rank
    return route(logits, K, norm_topk_prob=True)


class Drive(FakeStore):
    """A scripted drive that works one read after the other if it is `serial`."""

    serial = False

    def submit(self, key, into, **options):
        ticket = super().submit(key, into, **options)
        if self.serial:
            _, number, _ = self.queue.pop()
            busy = max([entry[0] for entry in self.queue], default=self.now)
            self.queue.append((max(busy, self.now) + self.latency(key), number, ticket))
        return ticket


class Scripted:
    """A predictor that knows the future, or is always wrong; predicting takes a tick."""

    def __init__(self, store: Drive, right: bool) -> None:
        self.store, self.right, self.future = store, right, {}
        self.max_tokens, self.first, self.native_depth = 1, None, None

    def gains_by_experts(self, layer_idx):
        return False

    def predict(self, layer_idx, x, routing):
        self.store.now += 1
        for layer in range(layer_idx + 1, min(layer_idx + 3, L)):
            yield layer, routing_of(*((e if self.right else (e + 7) % E) for e in self.future[layer]))


class Bench:
    """Decodes tokens whose layers choose random experts; 8 ticks of dense work before and 2 beside the experts."""

    def __init__(self, ticks: int, *, right: bool = True, serial: bool = False, governor: Governor | None) -> None:
        self.store = Drive(1 << 20, latency=lambda key: self.ticks)
        self.ticks, self.store.serial = ticks, serial
        ledger = UnitLedger(UnitSizes(8, 8, PAGE), 20 * PAGE, L * E)
        rule = create_rule("lru", RuleContext(num_layers=L, num_experts=E, tier_bytes={8: 1}, full_tier=8))
        memory = ExpertMemory(HostSpace(), ledger)
        self.cache = ExpertCache(
            Residents(ledger, rule, num_layers=L, num_experts=E), memory, self.store,
            clock=lambda: 1000 * self.store.now,
        )  # fmt: skip
        self.predictor = Scripted(self.store, right)
        policy = create_policy("lossless", SHAPE)
        self.prefetcher = Prefetcher(self.predictor, self.cache, governor, clock=lambda: 1000 * self.store.now)
        self.policy, self.rng = policy, np.random.default_rng(3)
        self.prefetcher.decide_with(PassPolicies([policy], [1]))

    def decode(self, tokens: int) -> list[bool]:
        states = []
        for _ in range(tokens):
            states.append(self.prefetcher.is_on)
            future = {layer: self.rng.choice(E, K, replace=False).tolist() for layer in range(L)}
            self.predictor.future = future
            self.cache.begin_pass()
            self.prefetcher.begin_pass(1)
            for layer in range(L):
                self.store.now += 8
                routing = routing_of(*future[layer])
                stream = self.cache.stream(layer, self.policy.decide(layer, routing, self.cache).tiers)
                self.prefetcher.after(layer, np.zeros((1, 1), np.float32), routing)
                self.store.now += 2
                for _ in stream:
                    pass
            self.cache.end_pass()
            self.prefetcher.end_pass()
        return states
