"""Replays of the recorded trace, for predictions: reads of a candidate in a steady state, each replayed once."""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.base.errors import HobbitError
from edge_runtime.bundle.calibration import ExpertCalibration
from edge_runtime.lab.simulator.drive import DriveModel
from edge_runtime.lab.simulator.replay import ReplaySettings, Simulation, simulate
from edge_runtime.lab.simulator.trace import Trace
from edge_runtime.lab.simulator.trace_format import TraceHeader, TracePass
from edge_runtime.lab.tune.predict import Reads, ReplaySetting
from edge_runtime.policy.routing import Router

_COUNTING = DriveModel(gbps=1e18, latency_us=1e6)
"""A drive whose seconds are batches: bytes cost nothing, a batch one second."""
_COLD = 3
"""The first third of a trace fills the cache and does not count."""


class FirstPasses:
    """The beginning of a trace. A `Recording`.

    Args:
        trace: the whole.
        tokens: that its passes have at most.
    """

    def __init__(self, trace: Trace, tokens: int) -> None:
        self._trace, self.tokens = trace, tokens

    @property
    def header(self) -> TraceHeader:
        """That of the whole."""
        return self._trace.header

    def router(self) -> Router:
        """Return the model's router."""
        return self._trace.router()

    def __iter__(self) -> Iterator[TracePass]:
        """Yield the passes; none is rejected under the policies that traces are recorded with here."""
        left = self.tokens
        for one in self._trace:
            left -= len(one.token_ids)
            if left < 0:
                return
            yield one


class Replays:
    """Replays settings against a trace, each once.

    Args:
        trace: of the workload.
        calibration: of the bundle, for policies and rules that need it.
    """

    def __init__(self, trace: Trace, calibration: ExpertCalibration | None = None) -> None:
        self._trace, self._calibration = trace, calibration
        self._known: dict[ReplaySetting, Reads] = {}

    def __call__(self, setting: ReplaySetting) -> Reads:
        """Return what the settings read for a token once the cache is full.

        Raises:
            ConfigError, BudgetError: they cannot be run.
        """
        if setting not in self._known:
            self._known[setting] = self._replay(setting)
        return self._known[setting]

    def can(self, setting: ReplaySetting) -> bool:
        """Whether the settings can be replayed at all."""
        try:
            self(setting)
        except HobbitError:
            return False
        return True

    def _replay(self, setting: ReplaySetting) -> Reads:
        settings = ReplaySettings(
            setting.num_slots, setting.policy, setting.eviction, setting.tier,
            drive=_COUNTING, calibration=self._calibration,
        )  # fmt: skip
        whole = simulate(self._trace, settings)
        cold = simulate(FirstPasses(self._trace, self._trace.tokens // _COLD), settings)
        tokens = max(whole.tokens - cold.tokens, 1)
        uses = whole.counters.since(cold.counters).by_tier
        return Reads(
            (_bytes(whole) - _bytes(cold)) / tokens,
            (whole.drive_s - cold.drive_s) / tokens,
            {tier: count / tokens for tier, count in uses.items() if count},
        )


def _bytes(found: Simulation) -> int:
    return found.counters.bytes_read
