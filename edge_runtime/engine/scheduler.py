"""The serving loop: owns the engine, decodes running requests together, and starts waiting ones in their order.

One thread. Between two passes it looks at cancellations, time limits, reloads and the queue. A pass holds the next
token of every request whose turn it is and one chunk of one prompt, so a long prompt delays the others by a chunk at
a time.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from time import monotonic

from edge_runtime.backends.trunk import F32
from edge_runtime.engine.assembly import Parts, replan
from edge_runtime.engine.batch_width import BatchWidth, PassCost
from edge_runtime.engine.decoder import SequenceStep
from edge_runtime.engine.generation import Continuation
from edge_runtime.engine.heap_trim import HeapTrim
from edge_runtime.engine.job import Event, Job
from edge_runtime.engine.observer import SchedulerObserver
from edge_runtime.engine.queue import JobQueue, ShuttingDownError
from edge_runtime.engine.reload import Reload
from edge_runtime.engine.request_policies import RequestPolicies
from edge_runtime.engine.sequence import Sequence
from edge_runtime.engine.sessions import SessionPool

_IDLE_S = 0.5


class Scheduler:
    """Runs jobs on an engine's parts.

    Args:
        parts: the engine's; nobody else may use them while the loop runs.
        pool: the sessions requests run in.
        observer: hears of everything that happens.
        max_waiting: jobs that may wait.
    """

    def __init__(self, parts: Parts, pool: SessionPool, observer: SchedulerObserver, *, max_waiting: int) -> None:
        self._parts, self._pool, self._observer = parts, pool, observer
        self._queue = JobQueue(observer, max_waiting=max_waiting, sessions=len(self._pool.sessions))
        self._running: list[Sequence] = []
        self._batch_width: BatchWidth[Sequence] = BatchWidth(len(self._pool.sessions))
        self._policies = RequestPolicies(parts)
        self._heap_trim = HeapTrim()
        self._thread = threading.Thread(target=self._loop, name="hobbit-serving", daemon=True)

    def start(self) -> None:
        """Start the loop."""
        self._observer.on_step()
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            QueueFullError: no more may wait.
            ShuttingDownError: nothing new is accepted.
        """
        self._queue.put(job, len(self._running))

    def drain(self) -> None:
        """Refuse new jobs; the loop ends when those accepted are done."""
        self._queue.drain()

    def stop(self) -> None:
        """Cancel everything and end the loop."""
        self._queue.stop()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the loop to end; return whether it has."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def reload(self, change: Reload) -> Future[None]:
        """Apply a change between two passes."""
        return self._queue.request_reload(change)

    # everything below runs in the loop's thread

    def _loop(self) -> None:
        try:
            while not self._is_over():
                self._turn()
        finally:
            self._end_all()

    def _is_over(self) -> bool:
        queue = self._queue
        return queue.is_stopping or (queue.is_draining and not self._running and queue.is_empty)

    def _turn(self) -> None:
        self._apply_reloads()
        self._drop_cancelled()
        self._admit()
        if self._running:
            self._pass(self._batch_width.choose(self._running))
            self._heap_trim.worked()
        else:
            self._heap_trim.idle()
            self._queue.wait(_IDLE_S)
        self._observer.on_step()

    def _drop_cancelled(self) -> None:
        gone = self._queue.take_cancelled()
        for _ in gone:
            self._observer.on_dropped("cancelled")
        for sequence in list(self._running):
            if sequence.job.is_cancelled:
                self._finish(sequence, "cancelled")
            elif sequence.is_out_of_time:
                self._finish(sequence, "length", limit="time")

    def _admit(self) -> None:
        """Start waiting jobs in their order while there are idle sessions."""
        while self._pool.has_idle:
            job = self._queue.take()
            if job is None:
                return
            try:
                self._begin(job)
            except Exception as err:  # noqa: BLE001 - one request's trouble must not end the loop
                self._observer.on_dropped("error", err)
                self._deliver(job, err)

    def _begin(self, job: Job) -> None:
        parts = self._parts
        policy = self._policies.get(job.policy, [s.policy for s in self._running])
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
        self._observer.on_started(sequence, len(self._running))

    def _pass(self, turn: list[Sequence]) -> None:
        """Run the next token of everyone who decodes, and a chunk of the oldest prompt."""
        parts, started = self._parts, monotonic()
        prompts = [s for s in turn if s.is_prefilling][:1]
        chosen = [s for s in turn if not s.is_prefilling] + prompts
        work = [(s, s.next_step(parts.decoder.max_chunk)) for s in chosen]
        before = parts.cache.counters
        lookups, hits = before.lookups, before.hits
        try:
            logits = parts.decoder.step([step for _, step in work], self._observer.on_layer)
        except Exception as err:  # noqa: BLE001 - nothing of the pass was kept: its requests fail, the loop goes on
            for sequence, _ in work:
                self._fail(sequence, err)
            return
        step_s, counters = monotonic() - started, parts.cache.counters
        cost = PassCost(len(work), step_s, counters.lookups - lookups, counters.hits - hits)
        self._batch_width.note(cost, slots=parts.cache.num_slots, has_prompt=bool(prompts))
        self._observer.on_pass(self._batch_width.width)
        tokens = sum(len(step.token_ids) for _, step in work)
        for sequence in self._running:
            sequence.tokens_around += tokens
            sequence.concurrent = max(sequence.concurrent, len(work))
        for (sequence, step), rows in zip(work, logits, strict=True):
            self._take(sequence, step, rows)

    def _take(self, sequence: Sequence, step: SequenceStep, rows: F32) -> None:
        was_prefilling = sequence.is_prefilling
        try:
            event = sequence.take(step, rows)
        except Exception as err:  # noqa: BLE001 - the others go on
            self._fail(sequence, err)
            return
        if was_prefilling:
            self._observer.on_prompt(len(step.token_ids))
        if event is None:
            return
        self._observer.on_token(sequence)
        self._deliver(sequence.job, event)
        if event.chunk.finish_reason:
            self._finish(sequence, event.chunk.finish_reason)

    def _finish(self, sequence: Sequence, reason: str, *, limit: str | None = None) -> None:
        counters = self._parts.cache.counters
        reason = sequence.job.name_reason(reason, sequence.text)
        self._retire(sequence, "timeout" if limit else reason)
        self._deliver(sequence.job, sequence.outcome(reason, counters, self._parts.policy, limit=limit))

    def _fail(self, sequence: Sequence, err: Exception) -> None:
        self._retire(sequence, "error", err)
        self._deliver(sequence.job, err)

    def _retire(self, sequence: Sequence, reason: str, err: Exception | None = None) -> None:
        self._running.remove(sequence)
        self._pool.release(sequence.session)
        self._observer.on_ended(sequence, reason, len(self._running), err)

    def _deliver(self, job: Job, event: Event) -> None:
        try:
            job.deliver(event)
        except RuntimeError:  # the client's event loop has gone
            job.cancel()

    def _apply_reloads(self) -> None:
        while (asked := self._queue.take_reload()) is not None:
            change, future = asked
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
            self._policies.set_own(str(change.policy))
        self._batch_width.forget()  # what paid with the old arena or policy may not pay now
        self._observer.on_reload()

    def _end_all(self) -> None:
        """The loop is over: whoever still waits is told."""
        waiting = self._queue.close()
        gone = ShuttingDownError()
        for sequence in list(self._running):
            self._retire(sequence, "error")
            self._deliver(sequence.job, gone)
        for job in waiting:
            self._deliver(job, gone)
