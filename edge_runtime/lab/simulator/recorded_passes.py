"""Recorded passes run through the runtime's layer loop: routing comes from the trace, experts from a drive on paper."""

from __future__ import annotations

from math import log

import numpy as np

from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import ModelSpec
from edge_runtime.engine.layer_loop import run_layers
from edge_runtime.engine.policy_pass import Attempt, PassSequence, run_policy_pass
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.lab.simulator.drive import SimulatedStore
from edge_runtime.lab.simulator.instant_server import InstantServer
from edge_runtime.lab.simulator.requests import RequestLog
from edge_runtime.lab.simulator.trace_format import TracePass
from edge_runtime.policy.base import Decision, Policy, Routing
from edge_runtime.policy.joint import PassPolicies
from edge_runtime.prefetch.prefetcher import Prefetcher
from edge_runtime.prefetch.read_ahead import ReadAhead
from edge_runtime.prefetch.recorded import RecordedPredictor

_NO_STATE = np.zeros((1, 0), np.float32)


class RecordedSwitch:
    """Whether reading ahead was on, as recorded. Implements `Switch`."""

    is_on = False
    switches = 0
    saved_ns_per_token = None

    def token(self, cost_ns: float) -> None:
        """Ignore what a pass cost: the time a replay takes says nothing."""


class RecordedPasses:
    """Runs recorded passes: decisions and what they ask for, nothing computed. A `RoutingSource` and `ExpertServer`.

    Args:
        spec: the model.
        predictor: repeats the predictions on record, and has the router of the trace.
        cache: holds the experts, over `store`.
        store: counts the reads.
        policy: decides.
        prefetch: read ahead by the predictions on record, unless every expert fits.
        repeats_rejections: the passes that were rejected are rejected again, whatever the policy says.
    """

    def __init__(
        self,
        spec: ModelSpec,
        predictor: RecordedPredictor,
        cache: ExpertCache,
        store: SimulatedStore,
        policy: Policy,
        *,
        prefetch: bool,
        repeats_rejections: bool,
    ) -> None:
        self._spec, self._cache, self._policy, self._repeats = spec, cache, policy, repeats_rejections
        self._predictor = predictor
        self._switch, self._prefetcher = RecordedSwitch(), None
        if prefetch and not cache.fits_all:
            self._prefetcher = Prefetcher(self._predictor, cache, self._switch)
        cache.residents.keep_without_ahead(policy.keeps_base or (prefetch and policy.reads_residency))
        self._read_ahead = ReadAhead(cache, spec.num_experts, self._prefetcher)
        self._instant = InstantServer(cache, store)
        self.requests = RequestLog(spec.num_experts)
        self._routings: dict[int, Routing] = {}

    def run(self, attempts: list[TracePass]) -> None:
        """Run a pass; of two attempts over the same tokens the first was rejected."""
        if attempts[0].first_of_text:
            self._cache.begin_request()
            self._policy.begin_sequence()
            self._cache.begin_sequence()
        self._switch.is_on = attempts[0].is_prefetching
        left, was_rejected = list(attempts), len(attempts) > 1

        def attempt(chosen: list[int]) -> Attempt:
            return self._attempt(left.pop(0) if len(left) > 1 else left[0])

        def accepts(policy: Policy, logits: F32) -> bool:
            judged = policy.accept(logits)
            return not was_rejected if self._repeats else judged

        sequence = PassSequence(len(attempts[0].token_ids), 1, self._policy)
        run_policy_pass([sequence], attempt, self._cache.residents, self._prefetcher, accepts)

    def _attempt(self, one: TracePass) -> Attempt:
        """A pass is routed in one go: a call of the router for every layer would take most of the time."""
        self._predictor.load(one.predictions)
        spec, tokens = self._spec, len(one.token_ids)
        self._routings = self._predictor.router.route_recorded(one.logits, one.token_ids)
        self._cache.begin_pass(tokens)
        self._read_ahead.decide_with(PassPolicies([self._policy], [tokens]))
        self._read_ahead.before(_NO_STATE, one.token_ids)
        decisions = run_layers(spec.sparse_layers, self, self._policy.decide, self._cache.residents, self)
        self._cache.end_pass()
        return Attempt([recorded_logits(one.confidence[-1:], spec.vocab_size)], decisions)

    def route(self, layer_idx: int) -> Routing:
        """Return what the router chose when the trace was recorded."""
        return self._routings[layer_idx]

    def serve(self, layer_idx: int, routing: Routing, decision: Decision) -> None:
        """Serve a layer to the end."""
        self.requests.add(layer_idx, decision.tiers)
        if not self._read_ahead.is_wanted(decision):
            self._instant.serve(layer_idx, decision.tiers, decision.use_order, decision.topk_ids)
            return
        ready = self._cache.stream(layer_idx, decision.tiers, decision.use_order, decision.topk_ids)
        self._read_ahead.after(layer_idx, _NO_STATE, routing, decision)
        for _ in ready:
            pass


def recorded_logits(confidence: F32, vocab_size: int) -> F32:
    """Make up logits float32 [rows, V] whose largest probability is the recorded one: all a policy may look at.

    Args:
        confidence: float32 [rows], the largest probability; NaN counts as 1.
        vocab_size: V.
    """
    logits, others = np.zeros((len(confidence), vocab_size), np.float32), max(vocab_size - 1, 1)
    for row, recorded in enumerate(confidence.tolist()):
        known = min(max(1.0 if recorded != recorded else recorded, 1e-9), 1 - 1e-9)
        logits[row, 0] = log(known * others / (1 - known))
    return logits
