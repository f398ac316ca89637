"""Replays a trace through the runtime's own decoder, policy and cache; only trunk, kernels and drive are fakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from edge_runtime.base.errors import BudgetError, ConfigError
from edge_runtime.base.sizes import format_size
from edge_runtime.bundle.calibration import ExpertCalibration
from edge_runtime.engine.layer_loop import Decoder, FinishedPass, Piece
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.eviction.rules import Measured, create_rule
from edge_runtime.lab.simulator.drive import DriveModel, SimulatedStore
from edge_runtime.lab.simulator.instant_cache import InstantCache
from edge_runtime.lab.simulator.requests import RequestLog
from edge_runtime.lab.simulator.stand_ins import NullKernels, TraceTrunk
from edge_runtime.lab.simulator.trace import Trace, TraceHeader, TracePass
from edge_runtime.policy import create_policy, parse_policy, price_of
from edge_runtime.policy.base import Decision, Policy, PolicyContext, Routing
from edge_runtime.policy.routing import route
from edge_runtime.prefetch.prefetcher import Prefetcher
from edge_runtime.prefetch.recorded import RecordedPredictor

_MAX_CHUNK = 1 << 12


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
    log = cache.log = RequestLog(spec.num_experts)
    trunk = TraceTrunk(spec)
    is_own = parse_policy(policy) == parse_policy(trace.header.policy) and context.tier == trace.header.tier
    recorded = RecordedPredictor(spec.sparse_layers, norm_topk_prob=spec.norm_topk_prob)
    prefetcher = Prefetcher(recorded, cache, _Switch()) if prefetch and not cache.fits_all else None
    decoder = _ReplayDecoder(
        spec, trunk, cache, NullKernels(), decides, max_chunk=_MAX_CHUNK, prefetcher=prefetcher
    )  # fmt: skip
    decoder.prepare(trunk, recorded, repeats_rejections=is_own)
    kv = trunk.new_kv_cache(_MAX_CHUNK)
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
            count = len(one.token_ids)
            kv.truncate(0)
            decoder.load([one] if rejected is None else [rejected, one])
            rejected = None
            decoder.forward(one.token_ids, kv, slice(count - 1, count))
            tokens += count
            progress(count)
        counters = cache.counters.snapshot()
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
        norm_topk_prob=spec.norm_topk_prob,
        calibration=calibration,
    )


class _Switch:
    """Whether reading ahead was on, as recorded. Implements `Switch`."""

    is_on = False
    switches = 0
    saved_ns_per_token = None

    def token(self, cost_ns: float) -> None:
        """What a replay takes says nothing."""


class _ReplayDecoder(Decoder):
    """The runtime's passes, without what only computing experts needs; a pass is routed in one go."""

    _no_state = np.zeros((1, 0), np.float32)

    def prepare(self, trunk: TraceTrunk, recorded: RecordedPredictor, *, repeats_rejections: bool) -> None:
        """Settle what passes are loaded into, and whether those that were rejected are rejected again."""
        self._trace_trunk, self._recorded, self._repeats = trunk, recorded, repeats_rejections

    def load(self, passes: list[TracePass]) -> None:
        """Take the pass that the next `forward` runs; two, if the first of them was rejected."""
        self._passes, self._was_rejected = passes, len(passes) > 1
        if self.prefetcher is not None:
            assert isinstance(self.prefetcher.governor, _Switch)
            self.prefetcher.governor.is_on = passes[0].is_prefetching

    def _pass(self, pieces: Sequence[Piece], policies: list[Policy]) -> FinishedPass:
        """One sequence, and nothing to compute: what is left of a pass are its decisions and what they ask for."""
        one, cache = self._passes[0], self.cache
        assert isinstance(cache, InstantCache)
        self._passes = self._passes[1:] or self._passes
        self._trace_trunk.load(one)
        self._recorded.load(one.predictions)
        spec, (layers, tokens, experts) = self.spec, one.logits.shape
        every = route(one.logits.reshape(-1, experts), spec.top_k, norm_topk_prob=spec.norm_topk_prob)
        ids, weights = (a.reshape(layers, tokens, spec.top_k) for a in (every.topk_ids, every.topk_weights))
        chunk, decisions = self.trunk.begin(pieces[0].token_ids, pieces[0].kv), []
        cache.begin_pass()
        for layer_idx, *of_layer in zip(spec.sparse_layers, one.logits, ids, weights, strict=True):
            routing = Routing(*of_layer)
            decision = policies[0].decide(layer_idx, routing, cache)
            decisions.append(decision)
            if self._reads_ahead(decision):
                self._serve_reading_ahead(layer_idx, decision, routing)
            else:
                cache.serve(layer_idx, decision.tiers, decision.use_order)
        cache.end_pass()
        return FinishedPass([chunk], [self._head(chunk, None, pieces[0])], decisions)

    def _is_rejected(self, policy: Policy, group: list[int], done: FinishedPass) -> bool:
        judged = super()._is_rejected(policy, group, done)
        return self._was_rejected if self._repeats else judged

    def _serve_reading_ahead(self, layer_idx: int, decision: Decision, routing: Routing) -> None:
        ready = self.cache.stream(layer_idx, decision.tiers, decision.use_order)
        for hint in decision.hints:
            self._prefetch(hint)
        if self.prefetcher is not None:
            self.prefetcher.after(layer_idx, self._no_state, routing)
        for _ in ready:
            pass


def _cache(
    header: TraceHeader, context: PolicyContext, policy: Policy, num_slots: int, eviction: str, store: SimulatedStore
) -> InstantCache:
    spec, tier = header.model, context.tier
    if num_slots < spec.top_k:
        size = context.tier_bytes[tier]
        raise BudgetError(
            f"--expert-memory: {num_slots} experts of {format_size(size)} are fewer than the {spec.top_k} one layer "
            f"needs for a token. Raise it to {format_size(spec.top_k * size)}."
        )
    rule = create_rule(
        eviction,
        num_layers=spec.num_layers,
        num_experts=spec.num_experts,
        tier_bytes=context.tier_bytes,
        full_tier=tier,
        known=Measured(spec.top_k, num_slots, context.calibration, price_of(policy)),
    )
    # address space only: memory is taken when a unit is first written, and nothing ever is
    cache = InstantCache.make(
        store,
        rule,
        header.layout,
        spec,
        num_slots=min(num_slots, len(spec.sparse_layers) * spec.num_experts),
        tier=tier,
        min_tier=policy.min_tier,
    )
    assert isinstance(cache, InstantCache)
    return cache
