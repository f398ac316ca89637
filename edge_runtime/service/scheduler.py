"""The serving loop: owns the engine, decodes all running requests together, and starts waiting ones in their order.

One thread. Between two passes it looks at cancellations, time limits, reloads and the queue. A pass holds the next
token of every running request and one chunk of one prompt, so a long prompt delays the others by a chunk at a time.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import Future
from time import monotonic

from edge_runtime.assembly import Parts, replan
from edge_runtime.decoder import Piece
from edge_runtime.errors import HobbitError
from edge_runtime.generation import Continuation
from edge_runtime.policy.base import Policy
from edge_runtime.service.api_errors import queue_full, unavailable
from edge_runtime.service.events import EngineView, Heartbeat, Reload, ServiceStats
from edge_runtime.service.job import Event, Job
from edge_runtime.service.sequence import Sequence
from edge_runtime.service.sessions import SessionPool
from edge_runtime.trunk.base import F32

_LOG = logging.getLogger(__name__)
_IDLE_S = 0.5
_VIEW_EVERY_S = 0.25
_MAX_POLICIES = 16


class Scheduler:
    """Runs jobs on an engine's parts.

    Args:
        parts: the engine's; nobody else may use them while the loop runs.
        stats: figures to keep.
        heartbeat: beaten before every layer, after every pass and at every idle tick.
        max_waiting: jobs that may wait.
    """

    def __init__(self, parts: Parts, stats: ServiceStats, heartbeat: Heartbeat, *, max_waiting: int) -> None:
        self._parts, self._stats, self._heartbeat = parts, stats, heartbeat
        parts.decoder.on_layer = heartbeat.beat
        self._max_waiting = max_waiting
        extra = [parts.trunk.new_kv_cache(parts.config.context) for _ in range(parts.config.parallel - 1)]
        self._pool = SessionPool([parts.kv, *extra])
        self._waiting: deque[Job] = deque()
        self._running: list[Sequence] = []
        self._reloads: deque[tuple[Reload, Future[None]]] = deque()
        self._policies: dict[str, Policy] = {}
        self._wake = threading.Condition()
        self._draining = self._stopping = False
        self._next_view = 0.0
        self._thread = threading.Thread(target=self._loop, name="hobbit-serving", daemon=True)

    def start(self) -> None:
        """Start the loop."""
        self._publish_view()
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            ApiError: the queue is full, or the service is draining.
        """
        with self._wake:
            if self._draining:
                self._count_rejection("draining")
                raise unavailable("it is shutting down", "draining")
            idle = len(self._pool.sessions) - len(self._running)
            if len(self._waiting) >= self._max_waiting + max(idle, 0):
                self._count_rejection("queue_full")
                raise queue_full(len(self._waiting), self._retry_after_s())
            self._waiting.append(job)
            self._wake.notify()

    def drain(self) -> None:
        """Refuse new jobs; the loop ends when those accepted are done."""
        with self._wake:
            self._draining = True
            self._wake.notify()

    def stop(self) -> None:
        """Cancel everything and end the loop."""
        with self._wake:
            self._stopping = self._draining = True
            self._wake.notify()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the loop to end; return whether it has."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def reload(self, change: Reload) -> Future[None]:
        """Apply a change between two passes."""
        future: Future[None] = Future()
        with self._wake:
            if not self._thread.is_alive() or self._draining:
                future.set_exception(unavailable("it is shutting down", "draining"))
            else:
                self._reloads.append((change, future))
                self._wake.notify()
        return future

    # everything below runs in the loop's thread

    def _loop(self) -> None:
        try:
            while not self._is_over():
                self._turn()
        finally:
            self._end_all()

    def _is_over(self) -> bool:
        return self._stopping or (self._draining and not self._running and not self._waiting)

    def _turn(self) -> None:
        self._apply_reloads()
        self._drop_cancelled()
        self._admit()
        pieces = self._pieces()
        if pieces:
            self._pass(pieces)
        else:
            self._idle()
        self._publish_view()
        self._heartbeat.beat()

    def _idle(self) -> None:
        with self._wake:
            if not (self._waiting or self._reloads or self._draining):
                self._wake.wait(_IDLE_S)

    def _drop_cancelled(self) -> None:
        with self._wake:
            gone = [job for job in self._waiting if job.is_cancelled]
            for job in gone:
                self._waiting.remove(job)
        with self._stats.update() as figures:
            figures.waiting = len(self._waiting)
            figures.finished["cancelled"] += len(gone)
        for sequence in list(self._running):
            if sequence.job.is_cancelled:
                self._finish(sequence, "cancelled")
            elif sequence.is_out_of_time:
                self._finish(sequence, "length", limit="time")

    def _admit(self) -> None:
        """Start waiting jobs in their order while there are idle sessions."""
        while self._pool.has_idle:
            with self._wake:
                if not self._waiting:
                    return
                job = self._waiting.popleft()
            try:
                self._begin(job)
            except Exception as err:  # noqa: BLE001 - one request's trouble must not end the loop
                self._fail_job(job, err)

    def _begin(self, job: Job) -> None:
        parts = self._parts
        policy = self._policy_of(job)
        parts.cache.begin_request()
        session, kept = self._pool.acquire(job.prompt_ids)
        try:
            if not kept and not self._running:
                parts.policy.begin_sequence()
                parts.cache.begin_sequence()
            eos = parts.bundle.manifest.model.eos_token_ids
            continuation = Continuation(
                parts.tokenizer, job.params, job.prompt_ids,
                eos=eos, context=session.kv.context, constraint=job.constraint,
            )  # fmt: skip
            counters = parts.cache.counters.snapshot()
        except BaseException:
            self._pool.release(session)
            raise
        sequence = Sequence(job, session, continuation, cached=kept, policy=policy, counters=counters)
        self._running.append(sequence)
        with self._stats.update() as figures:
            figures.queue_time.observe(sequence.started - job.submitted)
            figures.cached_tokens += kept
            figures.running, figures.waiting = len(self._running), len(self._waiting)

    def _pieces(self) -> list[tuple[Sequence, Piece]]:
        """The next token of everyone who decodes, and a chunk of the oldest prompt."""
        work = [s for s in self._running if not s.is_prefilling]
        work += [s for s in self._running if s.is_prefilling][:1]
        return [(s, s.piece(self._parts.decoder.max_chunk)) for s in work]

    def _pass(self, work: list[tuple[Sequence, Piece]]) -> None:
        started = monotonic()
        try:
            logits = self._parts.decoder.step([piece for _, piece in work])
        except Exception as err:  # noqa: BLE001 - nothing of the pass was kept: its requests fail, the loop goes on
            for sequence, _ in work:
                self._fail(sequence, err)
            return
        with self._stats.update() as figures:
            figures.steps += 1
        tokens = sum(len(piece.token_ids) for _, piece in work)
        for sequence in self._running:
            sequence.tokens_around += tokens
            sequence.concurrent = max(sequence.concurrent, len(self._running))
        for (sequence, piece), rows in zip(work, logits, strict=True):
            self._take(sequence, piece, rows, monotonic() - started)

    def _take(self, sequence: Sequence, piece: Piece, rows: F32, step_s: float) -> None:
        was_prefilling = sequence.is_prefilling
        try:
            event = sequence.take(piece, rows)
        except Exception as err:  # noqa: BLE001 - the others go on
            self._fail(sequence, err)
            return
        with self._stats.update() as figures:
            figures.prompt_tokens += len(piece.token_ids) if was_prefilling else 0
            if event is not None:
                figures.generation_tokens += 1
                if was_prefilling:
                    figures.time_to_first_token.observe(monotonic() - sequence.job.submitted)
                else:
                    figures.inter_token_latency.observe(step_s)
        if event is None:
            return
        self._deliver(sequence.job, event)
        if event.chunk.finish_reason:
            self._finish(sequence, event.chunk.finish_reason)

    def _finish(self, sequence: Sequence, reason: str, *, limit: str | None = None) -> None:
        counters = self._parts.cache.counters
        self._retire(sequence, "timeout" if limit else reason)
        self._deliver(sequence.job, sequence.outcome(reason, counters, self._parts.policy, limit=limit))

    def _fail(self, sequence: Sequence, err: Exception) -> None:
        self._retire(sequence, "error")
        self._report(err)
        self._deliver(sequence.job, err)

    def _fail_job(self, job: Job, err: Exception) -> None:
        with self._stats.update() as figures:
            figures.finished["error"] += 1
        self._report(err)
        self._deliver(job, err)

    def _retire(self, sequence: Sequence, reason: str) -> None:
        self._running.remove(sequence)
        self._pool.release(sequence.session)
        now, first = monotonic(), sequence.first_token_at
        with self._stats.update() as figures:
            figures.finished[reason] += 1
            figures.running = len(self._running)
            figures.e2e_latency.observe(now - sequence.job.submitted)
            figures.prefill_time.observe((first or now) - sequence.started)
            if first is not None:
                figures.decode_time.observe(now - first)

    def _deliver(self, job: Job, event: Event) -> None:
        try:
            job.deliver(event)
        except RuntimeError:  # the client's event loop has gone
            job.cancel()

    def _policy_of(self, job: Job) -> Policy | None:
        if job.policy is None or job.policy == self._parts.config.policy:
            return None
        if job.policy not in self._policies:
            in_use = {id(s.policy) for s in self._running}
            while len(self._policies) >= _MAX_POLICIES:
                idle = next((name for name, p in self._policies.items() if id(p) not in in_use), None)
                self._policies.pop(idle or next(iter(self._policies)))
            self._policies[job.policy] = self._parts.make_policy(job.policy)
        return self._policies[job.policy]

    def _apply_reloads(self) -> None:
        while self._reloads:
            change, future = self._reloads.popleft()
            try:
                self._apply(change)
                future.set_result(None)
            except Exception as err:  # noqa: BLE001 - whoever asked gets it
                future.set_exception(err)

    def _apply(self, change: Reload) -> None:
        parts = self._parts
        policy = None if change.policy is None else parts.make_policy(change.policy)
        if change.memory is not None or change.expert_memory is not None:
            replan(parts, memory=change.memory, expert_memory=change.expert_memory)
        if policy is not None:
            parts.policy = parts.decoder.policy = policy
        self._next_view = 0.0

    def _publish_view(self) -> None:
        if monotonic() < self._next_view:
            return
        self._next_view = monotonic() + _VIEW_EVERY_S
        parts, cache = self._parts, self._parts.cache
        residency: dict[int, dict[int, int]] = {}
        for layer_idx in parts.bundle.manifest.model.sparse_layers:
            tiers = cache.resident_tiers(layer_idx).tolist()
            residency[layer_idx] = {tier: tiers.count(tier) for tier in set(tiers) if tier}
        used = sum(sum(by_tier.values()) for by_tier in residency.values())
        self._stats.engine = EngineView(
            experts=cache.counters.snapshot(),
            residency=residency,
            cache_used_bytes=used * parts.plan.slot_bytes,
            cache_bytes=parts.plan.arena_bytes,
            kv_used_tokens=self._pool.used_tokens,
            kv_tokens=self._pool.capacity_tokens,
            policy={"name": parts.policy.name, "params": parts.policy.params},
            spans_ns=dict(parts.decoder.spans.ns),
            budget_bytes=parts.plan.budget_bytes,
            planned_bytes=parts.plan.planned_bytes,
        )

    def _end_all(self) -> None:
        """The loop is over: whoever still waits is told."""
        with self._wake:
            self._draining = True
            waiting, self._waiting = list(self._waiting), deque()
            reloads, self._reloads = list(self._reloads), deque()
        gone = unavailable("it is shutting down", "draining")
        for sequence in list(self._running):
            self._retire(sequence, "error")
            self._deliver(sequence.job, gone)
        for job in waiting:
            self._deliver(job, gone)
        for _, future in reloads:
            future.set_exception(gone)

    def _report(self, err: Exception) -> None:
        if isinstance(err, HobbitError):
            _LOG.warning("request failed: %s", err)
        else:
            _LOG.error("request failed unexpectedly", exc_info=err)

    def _count_rejection(self, reason: str) -> None:
        with self._stats.update() as figures:
            figures.rejected[reason] += 1

    def _retry_after_s(self) -> int:
        """About when the next session becomes free: the mean length of a request."""
        figures = self._stats.read()
        done = figures.e2e_latency.count
        mean = figures.e2e_latency.sum / done if done else 1.0
        return max(1, min(60, round(mean / max(1, len(self._pool.sessions)))))
