"""Replays of the recorded workload, for predictions: what a candidate reads for a token, each replayed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from edge_runtime.base.errors import HobbitError
from edge_runtime.bundle.calibration import ExpertCalibration
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.lab.simulator.drive import DriveModel
from edge_runtime.lab.simulator.replay import ReplaySettings, simulate
from edge_runtime.lab.simulator.trace import Trace
from edge_runtime.lab.simulator.trace_format import TraceHeader, TracePass
from edge_runtime.lab.tune.measurement import Workload
from edge_runtime.lab.tune.predict import Reads, ReplaySetting
from edge_runtime.policy import parse_policy
from edge_runtime.policy.routing import Router

_COUNTING = DriveModel(gbps=1e18, latency_us=1e6)
"""A drive whose seconds are batches: bytes cost nothing, a batch one second."""


class WorkloadPasses:
    """The passes that a measurement of the workload makes: prompts in chunks, then tokens one by one. A `Recording`.

    Args:
        trace: of its requests, each a text of prompt and answer, recorded token by token.
        workload: says which tokens are prompts, and which requests warm up.
        chunk: tokens of a prompt that run in one pass.
    """

    def __init__(self, trace: Trace, workload: Workload, chunk: int) -> None:
        self._trace, self._workload, self._chunk = trace, workload, chunk
        self.counts = False
        """Whether the pass yielded last is one that a measurement counts: of a decoded token, and not of warming up."""

    @property
    def header(self) -> TraceHeader:
        """That of the trace."""
        return self._trace.header

    def router(self) -> Router:
        """Return the model's router."""
        return self._trace.router()

    def __iter__(self) -> Iterator[TracePass]:
        """Yield the passes; none is rejected under the policies that traces are recorded with here."""
        request, left = -1, 0
        prompt: list[TracePass] = []
        for one in self._trace:
            if one.first_of_text:
                request += 1
                left = len(self._workload.prompts[request])
            if left:
                left -= 1
                prompt.append(one)
                if not left or len(prompt) == self._chunk:
                    self.counts = False
                    yield _joined(prompt)
                    prompt = []
                continue
            self.counts = request >= self._workload.warmup
            yield one


def _joined(passes: Sequence[TracePass]) -> TracePass:
    """Return one pass over the tokens of several."""
    return TracePass(
        np.concatenate([one.token_ids for one in passes]),
        np.concatenate([one.logits for one in passes], axis=1),
        np.concatenate([one.confidence for one in passes]),
        passes[0].first_of_text,
    )


@dataclass
class _Counted:
    """Adds up what the passes that count did."""

    passes: WorkloadPasses
    tokens: int = 0
    bytes_read: int = 0
    batches: float = 0.0
    uses: dict[int, int] = field(default_factory=dict)
    _before: tuple[ExpertCounters, float] = field(default_factory=lambda: (ExpertCounters(), 0.0))

    def __call__(self, counters: ExpertCounters, batches: float) -> None:
        """Take the totals behind a pass."""
        if self.passes.counts:
            new = counters.since(self._before[0])
            self.tokens += 1
            self.bytes_read += new.bytes_read
            self.batches += batches - self._before[1]
            for tier, count in new.by_tier.items():
                self.uses[tier] = self.uses.get(tier, 0) + count
        self._before = counters, batches


class Replays:
    """Replays settings against the workload, each once.

    Args:
        trace: of the workload.
        workload: what was recorded.
        chunk: tokens of a prompt that run in one pass.
        calibration: of the bundle, for policies and rules that need it.
    """

    def __init__(
        self, trace: Trace, workload: Workload, chunk: int, calibration: ExpertCalibration | None = None
    ) -> None:
        self._trace, self._workload, self._chunk, self._calibration = trace, workload, chunk, calibration
        self._known: dict[ReplaySetting, Reads] = {}

    def __call__(self, setting: ReplaySetting) -> Reads | None:
        """Return what the settings read for a token of the requests that count.

        Returns:
            None for another policy or tier than the trace's: the text that follows is another one, and so is what it
            asks for.

        Raises:
            ConfigError, BudgetError: they cannot be run.
        """
        return None if self._says_otherwise(setting) else self._reads(setting)

    def can(self, setting: ReplaySetting) -> bool:
        """Whether the settings can be run at all."""
        try:
            self._reads(setting)
        except HobbitError:
            return False
        return True

    def _reads(self, setting: ReplaySetting) -> Reads:
        if setting not in self._known:
            self._known[setting] = self._replay(setting)
        return self._known[setting]

    def _says_otherwise(self, setting: ReplaySetting) -> bool:
        header = self._trace.header
        return setting.tier != header.tier or parse_policy(setting.policy) != parse_policy(header.policy)

    def _replay(self, setting: ReplaySetting) -> Reads:
        settings = ReplaySettings(
            setting.num_slots, setting.policy, setting.eviction, setting.tier,
            drive=_COUNTING, calibration=self._calibration,
        )  # fmt: skip
        passes = WorkloadPasses(self._trace, self._workload, self._chunk)
        found = _Counted(passes)
        simulate(passes, settings, watch=found)
        tokens = max(found.tokens, 1)
        uses = {tier: count / tokens for tier, count in found.uses.items() if count}
        return Reads(found.bytes_read / tokens, found.batches / tokens, uses)
