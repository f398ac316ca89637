"""Replays a trace through the runtime's own layer loop, policy and cache; nothing is computed, no drive is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.errors import BudgetError, ConfigError
from edge_runtime.base.sizes import format_size
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.calibration import ExpertCalibration
from edge_runtime.engine.layer_loop import run_layers
from edge_runtime.engine.policy_pass import Attempt, PassSequence, run_policy_pass
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.eviction import RuleContext, create_rule
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.residents import Residents
from edge_runtime.lab.simulator.drive import DriveModel, SimulatedStore
from edge_runtime.lab.simulator.instant_server import InstantServer
from edge_runtime.lab.simulator.requests import RequestLog
from edge_runtime.lab.simulator.stand_ins import recorded_logits
from edge_runtime.lab.simulator.trace import Trace
from edge_runtime.lab.simulator.trace_format import TraceHeader, TracePass
from edge_runtime.policy import create_policy, parse_policy
from edge_runtime.policy.base import Decision, Policy, PolicyContext, Routing
from edge_runtime.policy.routing import route
from edge_runtime.prefetch.prefetcher import Prefetcher
from edge_runtime.prefetch.read_ahead import ReadAhead
from edge_runtime.prefetch.recorded import RecordedPredictor

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Simulation:
    """One replay.

    Attributes:
        policy: as it was at the end.
        counters: what the runtime would have counted.
        tokens: tokens replayed.
        drive_s: time the drive model says the engine waited.
        wall_s: time the replay took.
        requests: what was asked for, for the bound.
    """

    policy: Policy
    counters: ExpertCounters
    tokens: int
    drive_s: float
    wall_s: float
    requests: RequestLog


def simulate(  # noqa: PLR0913 - the axes of a comparison
    trace: Trace,
    policy: str,
    *,
    num_slots: int,
    eviction: str,
    tier: int | None = None,
    drive: DriveModel | None = None,
    calibration: ExpertCalibration | None = None,
    prefetch: bool = False,
    progress: Callable[[int], None] = lambda tokens: None,
) -> Simulation:
    """Replay a trace.

    Args:
        trace: recorded routing.
        policy: name and parameters.
        num_slots: S, the cache in experts of the full tier.
        eviction: name of the rule.
        tier: the full tier; the trace's own if left out.
        drive: what reads cost.
        calibration: of the bundle, for policies and rules that need it.
        prefetch: read ahead by the predictions the trace holds, in the passes in which that was on.
        progress: called with the tokens of each pass.

    A pass that was rejected is judged by what was recorded of it: if the policy is the trace's own, the same ones are
    rejected again; another policy judges by the recorded confidence, and a second run of a pass that was recorded once
    gets the same routing.

    Raises:
        BudgetError: fewer slots than one layer needs for one token.
        BundleError: the trace is damaged.
        ConfigError: a policy, parameter or rule is unknown, or the trace holds no predictions.
    """
    if prefetch and not trace.header.ahead:
        raise ConfigError("--prefetch: the trace holds no predictions. Record it with --prefetch, then replay it.")
    spec, store = trace.header.model, SimulatedStore(drive or DriveModel())
    context = policy_context(trace.header, tier or trace.header.tier, calibration)
    decides = create_policy(policy, context)
    cache = _cache(trace.header, context, decides, num_slots, eviction, store)
    log = RequestLog(spec.num_experts)
    is_own = parse_policy(policy) == parse_policy(trace.header.policy) and context.tier == trace.header.tier
    predictor = RecordedPredictor(spec.sparse_layers, norm_topk_prob=spec.router.normalise)
    prefetcher = Prefetcher(predictor, cache, _Switch()) if prefetch and not cache.fits_all else None
    replay = _Replay(
        spec, cache, InstantServer(cache, store), log, decides, predictor, prefetcher, repeats_rejections=is_own
    )
    tokens, started = 0, perf_counter()
    rejected: TracePass | None = None
    try:
        for one in trace:
            if one.first_of_text:
                cache.begin_request()
                decides.begin_sequence()
                cache.begin_sequence()
            if one.is_rejected:
                rejected = one
                continue
            replay.run([one] if rejected is None else [rejected, one])
            rejected = None
            tokens += len(one.token_ids)
            progress(len(one.token_ids))
        cache.finish_reads()
        counters = cache.counters
    finally:
        cache.close()
    return Simulation(decides, counters, tokens, store.seconds, perf_counter() - started, log)


def policy_context(header: TraceHeader, tier: int, calibration: ExpertCalibration | None) -> PolicyContext:
    """What a policy is built for, as `edge_runtime.engine.assembly` says it of a bundle."""
    spec, layout = header.model, header.layout
    return PolicyContext(
        num_layers=spec.num_layers,
        num_experts=spec.num_experts,
        top_k=spec.top_k,
        tier=tier,
        tier_bytes={t: layout.tier_bytes(t) for t in header.tiers},
        norm_topk_prob=spec.router.normalise,
        calibration=calibration,
    )


class _Switch:
    """Whether reading ahead was on, as recorded. Implements `Switch`."""

    is_on = False
    switches = 0
    saved_ns_per_token = None

    def token(self, cost_ns: float) -> None:
        """What a replay takes says nothing."""


class _Replay:
    """Runs recorded passes: decisions and what they ask for, nothing computed. A `RoutingSource` and `ExpertServer`.

    Args:
        spec: the model.
        cache: serves the experts.
        instant: serves those of `cache` where nothing is read ahead.
        log: notes what is asked for.
        policy: decides.
        predictor: repeats the predictions on record.
        prefetcher: reads ahead by them, or None.
        repeats_rejections: the passes that were rejected are rejected again, whatever the policy says.
    """

    _no_state = np.zeros((1, 0), np.float32)

    def __init__(
        self,
        spec: ModelSpec,
        cache: ExpertCache,
        instant: InstantServer,
        log: RequestLog,
        policy: Policy,
        predictor: RecordedPredictor,
        prefetcher: Prefetcher | None,
        *,
        repeats_rejections: bool,
    ) -> None:
        self._spec, self._cache, self._policy, self._predictor = spec, cache, policy, predictor
        self._prefetcher, self._repeats, self._instant, self._log = prefetcher, repeats_rejections, instant, log
        self._read_ahead = ReadAhead(cache, spec.num_experts, prefetcher)
        self._routings: dict[int, Routing] = {}

    def run(self, passes: list[TracePass]) -> None:
        """Run a pass; two are given if the first of them was rejected."""
        if self._prefetcher is not None:
            assert isinstance(self._prefetcher.governor, _Switch)
            self._prefetcher.governor.is_on = passes[0].is_prefetching
        left, was_rejected = list(passes), len(passes) > 1

        def attempt(chosen: list[int]) -> Attempt:
            return self._attempt(left.pop(0) if len(left) > 1 else left[0])

        def accepts(policy: Policy, logits: F32) -> bool:
            judged = policy.accept(logits)
            return not was_rejected if self._repeats else judged

        sequence = PassSequence(len(passes[-1].token_ids), 1, self._policy)
        run_policy_pass([sequence], attempt, self._cache, self._prefetcher, accepts)

    def _attempt(self, one: TracePass) -> Attempt:
        """A pass is routed in one go: a call of the router for every layer would take most of the time."""
        self._predictor.load(one.predictions)
        spec, (layers, tokens, experts) = self._spec, one.logits.shape
        every = route(one.logits.reshape(-1, experts), spec.top_k, norm_topk_prob=spec.router.normalise)
        ids, weights = (a.reshape(layers, tokens, spec.top_k) for a in (every.topk_ids, every.topk_weights))
        by_layer = zip(spec.sparse_layers, one.logits, ids, weights, strict=True)
        self._routings = {layer_idx: Routing(*chosen) for layer_idx, *chosen in by_layer}
        self._cache.begin_pass()
        decisions = run_layers(spec.sparse_layers, self, self._decide, self)
        self._cache.end_pass()
        return Attempt([recorded_logits(one.confidence[-1:], spec.vocab_size)], decisions)

    def route(self, layer_idx: int) -> Routing:
        """What the router chose when the trace was recorded."""
        return self._routings[layer_idx]

    def _decide(self, layer_idx: int, routing: Routing) -> Decision:
        return self._policy.decide(layer_idx, routing, self._cache)

    def serve(self, layer_idx: int, routing: Routing, decision: Decision) -> None:
        """Serve a layer to the end."""
        self._log.add(layer_idx, decision.tiers)
        if not self._read_ahead.is_wanted(decision):
            self._instant.serve(layer_idx, decision.tiers, decision.use_order)
            return
        ready = self._cache.stream(layer_idx, decision.tiers, decision.use_order)
        self._read_ahead.after(layer_idx, self._no_state, routing, decision)
        for _ in ready:
            pass


def _cache(
    header: TraceHeader, context: PolicyContext, policy: Policy, num_slots: int, eviction: str, store: SimulatedStore
) -> ExpertCache:
    spec, tier = header.model, context.tier
    if num_slots < spec.top_k:
        size = context.tier_bytes[tier]
        raise BudgetError(
            f"--expert-memory: {num_slots} experts of {format_size(size)} are fewer than the {spec.top_k} one layer "
            f"needs for a token. Raise it to {format_size(spec.top_k * size)}."
        )
    rule = create_rule(
        eviction,
        RuleContext(
            num_layers=spec.num_layers,
            num_experts=spec.num_experts,
            tier_bytes=context.tier_bytes,
            full_tier=tier,
            top_k=spec.top_k,
            capacity=num_slots,
            calibration=context.calibration,
            price=lambda: policy.price,
        ),
    )
    # address space only: memory is taken when a unit is first written, and nothing ever is
    residents = Residents.of_model(
        spec,
        header.layout,
        rule,
        num_slots=min(num_slots, len(spec.sparse_layers) * spec.num_experts),
        tier=tier,
        min_tier=policy.min_tier,
    )
    return ExpertCache(residents, ExpertMemory(residents.ledger), store)
