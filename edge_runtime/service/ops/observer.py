"""Keeps the service's figures: the scheduler reports to it what happens."""

from __future__ import annotations

import logging
from time import monotonic

from edge_runtime.base.errors import HobbitError
from edge_runtime.engine.observer import SchedulerObserver
from edge_runtime.engine.sequence import Sequence
from edge_runtime.service.ops.engine_state import EngineStatePublisher
from edge_runtime.service.ops.figures import ServiceStats
from edge_runtime.service.ops.health import Heartbeat

_LOG = logging.getLogger(__name__)


class ServiceObserver(SchedulerObserver):
    """Counts requests and tokens, shows that the loop runs, publishes the engine's state, and logs failures.

    Args:
        stats: figures to keep.
        heartbeat: told after every pass and at every idle tick.
        state: published after every step.
    """

    def __init__(self, stats: ServiceStats, heartbeat: Heartbeat, state: EngineStatePublisher) -> None:
        self._stats, self._heartbeat, self._state = stats, heartbeat, state
        self._note_running(0)

    def _note_running(self, num_running: int) -> None:
        if self._stats.power is not None:
            self._stats.power.set_running(num_running)

    def on_step(self) -> None:
        """Show what has changed, and that the loop is alive."""
        self._state.publish()
        self._heartbeat.beat()

    def on_reload(self) -> None:
        """Show the new settings before anybody is told that they hold: the next step may be long."""
        self._state.publish(even_if_fresh=True)

    def on_waiting(self, num_jobs: int) -> None:
        """Keep the length of the queue."""
        with self._stats.update() as figures:
            figures.waiting = num_jobs

    def on_rejected(self, reason: str) -> None:
        """Count a refusal."""
        with self._stats.update() as figures:
            figures.rejected[reason] += 1

    def on_dropped(self, reason: str, err: Exception | None = None) -> None:
        """Count a job that never ran."""
        with self._stats.update() as figures:
            figures.finished[reason] += 1
        if err is not None:
            _log_failure(err)

    def on_started(self, sequence: Sequence, num_running: int) -> None:
        """Count tokens found in the session, and time waited."""
        self._note_running(num_running)
        kept = sequence.timings.cached_n
        with self._stats.update() as figures:
            figures.queue_time.observe(sequence.started - sequence.job.submitted)
            figures.cached_tokens += kept
            figures.prompt_tokens += kept
            figures.running = num_running

    def on_pass(self, width: int) -> None:
        """Count a pass."""
        with self._stats.update() as figures:
            figures.steps += 1
            figures.decode_width = width

    def on_prompt(self, num_tokens: int) -> None:
        """Count tokens of a prompt."""
        with self._stats.update() as figures:
            figures.prompt_tokens += num_tokens

    def on_prefix_copied(self, num_tokens: int) -> None:
        """Count tokens of a prompt that need not be run."""
        with self._stats.update() as figures:
            figures.cached_tokens += num_tokens
            figures.prompt_tokens += num_tokens

    def on_drafts(self, drafted: int, accepted: int) -> None:
        """Count tokens of drafts."""
        with self._stats.update() as figures:
            figures.draft_tokens += drafted
            figures.accepted_tokens += accepted

    def on_token(self, sequence: Sequence) -> None:
        """Count a token, and the time it was waited for."""
        token_ms = sequence.timings.token_ms
        with self._stats.update() as figures:
            figures.generation_tokens += 1
            if len(token_ms) == 1:
                figures.time_to_first_token.observe(monotonic() - sequence.job.submitted)
            else:
                figures.inter_token_latency.observe(token_ms[-1] / 1000)

    def on_ended(self, sequence: Sequence, reason: str, num_running: int, err: Exception | None = None) -> None:
        """Count a request and how long its parts took."""
        self._note_running(num_running)
        now, first = monotonic(), sequence.first_token_at
        with self._stats.update() as figures:
            figures.finished[reason] += 1
            figures.running = num_running
            figures.e2e_latency.observe(now - sequence.job.submitted)
            figures.prefill_time.observe((first or now) - sequence.started)
            if first is not None:
                figures.decode_time.observe(now - first)
        if err is not None:
            _log_failure(err)


def _log_failure(err: Exception) -> None:
    if isinstance(err, HobbitError):
        _LOG.warning("request failed: %s", err)
    else:
        _LOG.error("request failed unexpectedly", exc_info=err)
