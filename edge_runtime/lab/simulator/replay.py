"""Replays a trace through the runtime's own layer loop, policy and cache; nothing is computed, no drive is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

from edge_runtime.backends import host_space
from edge_runtime.base.errors import BudgetError, ConfigError
from edge_runtime.base.sizes import format_size
from edge_runtime.bundle.calibration import ExpertCalibration
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.eviction import RuleContext, create_rule
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.residents import Residents
from edge_runtime.lab.simulator.drive import DriveModel, SimulatedStore
from edge_runtime.lab.simulator.recorded_passes import RecordedPasses
from edge_runtime.lab.simulator.requests import RequestLog
from edge_runtime.lab.simulator.trace_format import TraceHeader, TracePass
from edge_runtime.policy import POLICIES, create_policy, parse_policy, reads_at_most
from edge_runtime.policy.base import Policy, PolicyContext
from edge_runtime.policy.routing import Router
from edge_runtime.prefetch.recorded import RecordedPredictor


@dataclass(frozen=True)
class ReplaySettings:
    """What a trace is replayed with.

    Attributes:
        num_slots: S, the cache in experts of the full tier.
        policy: name and parameters.
        eviction: name and parameters of the rule.
        tier: the full tier; the trace's own if left out.
        drive: what reads cost.
        calibration: of the bundle, for policies and rules that need it.
        prefetch: read ahead by the predictions the trace holds, in the passes in which that was on.
    """

    num_slots: int
    policy: str = "lossless"
    eviction: str = "lru"
    tier: int | None = None
    drive: DriveModel = field(default_factory=DriveModel)
    calibration: ExpertCalibration | None = None
    prefetch: bool = False


Watch = Callable[[ExpertCounters, float], None]


class Recording(Protocol):
    """Passes to replay; a `Trace` is one."""

    @property
    def header(self) -> TraceHeader:
        """Says of what model they are."""
        ...

    def router(self) -> Router:
        """Return the model's router, for the logits on record."""
        ...

    def __iter__(self) -> Iterator[TracePass]:
        """Yield every pass in order."""
        ...


@dataclass(frozen=True)
class Simulation:
    """One replay.

    Attributes:
        policy: as it was at the end.
        counters: what the runtime would have counted since it opened.
        tokens: tokens replayed.
        drive_s: time the drive model says the engine waited.
        wall_s: time the replay took.
        requests: what was asked for, for the bound.
        kept_bytes: bytes of an expert at each tier the cache may keep one at, for the bound too.
    """

    policy: Policy
    counters: ExpertCounters
    tokens: int
    drive_s: float
    wall_s: float
    requests: RequestLog
    kept_bytes: dict[int, int]


def simulate(
    trace: Recording,
    settings: ReplaySettings,
    *,
    progress: Callable[[int], None] = lambda tokens: None,
    watch: Watch | None = None,
) -> Simulation:
    """Replay a trace.

    A pass that was rejected is judged by what was recorded of it: if the policy is the trace's own, the same ones are
    rejected again; another policy judges by the recorded confidence, and a second run of a pass that was recorded once
    gets the same routing.

    Args:
        trace: recorded routing.
        settings: what it is replayed with.
        progress: called with the tokens of each pass.
        watch: called behind each pass that stands, with the totals so far and the drive's seconds.

    Raises:
        BudgetError: fewer slots than one layer needs for one token.
        BundleError: the trace is damaged.
        ConfigError: a policy, parameter or rule is unknown, or the trace holds no predictions.
    """
    header = trace.header
    if settings.prefetch and not header.ahead:
        raise ConfigError("--prefetch: the trace holds no predictions. Record it with --prefetch, then replay it.")
    _check_judges(header, settings.policy)
    router = trace.router()
    context = PolicyContext.of(
        header.model, header.layout, header.tiers, router, settings.tier or header.tier, settings.calibration
    )
    policy, store = create_policy(settings.policy, context), SimulatedStore(settings.drive)
    is_own = parse_policy(settings.policy) == parse_policy(header.policy) and context.tier == header.tier
    tokens, started = 0, perf_counter()
    with closing(_make_cache(header, context, policy, settings, store)) as cache:
        cache.begin_request()  # reads what is in memory from the start on, which is no part of what is counted
        before, begun_s = cache.counters, store.seconds
        predictor = RecordedPredictor(router, predicts_logits=header.predicted == "logits")
        passes = RecordedPasses(
            header.model, predictor, cache, store, policy, prefetch=settings.prefetch, repeats_rejections=is_own
        )  # fmt: skip
        for attempts in _attempts(trace):
            passes.run(attempts)
            tokens += len(attempts[0].token_ids)
            progress(len(attempts[0].token_ids))
            if watch is not None:
                watch(cache.counters, store.seconds)
        cache.finish_reads()
        counters = cache.counters.since(before)
    kept = {t: size for t, size in context.tier_bytes.items() if policy.min_tier <= t <= context.tier}
    seconds = store.seconds - begun_s, perf_counter() - started
    return Simulation(policy, counters, tokens, *seconds, passes.requests, kept)


def _check_judges(header: TraceHeader, text: str) -> None:
    """Refuse a policy that looks at what the trace does not hold: its replay would be made up."""
    name = parse_policy(text)[0]
    if not reads_at_most(name, header.routing):
        held = "the experts chosen" + (" and their weights" if header.routing == "weights" else "")
        known = ", ".join(policy for policy in POLICIES if reads_at_most(policy, header.routing))
        raise ConfigError(
            f"--policy: {name!r} looks at more of the router's output than this trace holds, which is {held}. "
            f"It can judge {known}."
        )


def _attempts(trace: Recording) -> Iterator[list[TracePass]]:
    """Each pass that stands, behind the one that was rejected if there was one."""
    rejected: list[TracePass] = []
    for one in trace:
        if one.is_rejected:
            rejected = [one]
        else:
            yield [*rejected, one]
            rejected = []


def _make_cache(
    header: TraceHeader, context: PolicyContext, policy: Policy, settings: ReplaySettings, store: SimulatedStore
) -> ExpertCache:
    """The runtime's cache. Its memory is address space only: no unit is ever written."""
    spec, num_slots = header.model, settings.num_slots
    if num_slots < spec.top_k:
        size = context.tier_bytes[context.tier]
        raise BudgetError(
            f"--expert-memory: {num_slots} experts of {format_size(size)} are fewer than the {spec.top_k} one layer "
            f"needs for a token. Raise it to {format_size(spec.top_k * size)}."
        )
    rule = create_rule(settings.eviction, RuleContext.of(context, capacity=num_slots, price=lambda: policy.price))
    residents = Residents.of_model(
        spec,
        header.layout,
        rule,
        num_slots=min(num_slots, len(spec.sparse_layers) * spec.num_experts),
        tier=context.tier,
        min_tier=policy.min_tier,
        whole=header.whole_slots,
        keeps_base=policy.keeps_base,
    )
    return ExpertCache(residents, ExpertMemory(host_space(), residents.ledger), store)
