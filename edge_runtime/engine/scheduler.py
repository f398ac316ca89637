"""Runs requests on an engine's parts, a step at a time: the one serving core of `Engine` and of the service.

A step ends jobs that were cancelled or are out of time, starts waiting ones while sessions are idle, and runs a pass:
the next token of every sequence chosen for it and one chunk of one prompt. A long prompt delays others by a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from edge_runtime.base.arrays import F32
from edge_runtime.engine.batch_width import BatchWidth
from edge_runtime.engine.cost_meter import CostMeter
from edge_runtime.engine.job import Job, Start, TokenEvent
from edge_runtime.engine.observer import SchedulerObserver
from edge_runtime.engine.parts import Parts
from edge_runtime.engine.pass_parts import BeforeLayer, SequenceStep, nothing
from edge_runtime.engine.prefix_sharing import share_prefix
from edge_runtime.engine.reconfigure import reconfigure
from edge_runtime.engine.reload import Reload
from edge_runtime.engine.report import make_outcome
from edge_runtime.engine.request_policies import RequestPolicies
from edge_runtime.engine.sequence import Sequence
from edge_runtime.engine.sessions import Session, SessionPool
from edge_runtime.engine.starting import sequence_of
from edge_runtime.policy.base import Policy

_SILENT = SchedulerObserver()


def _nothing_waits() -> None:
    """A source of jobs that has none."""


class Scheduler:
    """Starts jobs and runs them together. For one thread, whichever it is.

    What fails or is over is told through `Job.tell`; a step itself raises only what is no `Exception`, such as
    KeyboardInterrupt. After that the jobs of the step are in an unknown state: `drop` them.

    Args:
        parts: the engine's; nobody else may use them meanwhile.
        sessions: where jobs run, and so how many run at once.
        observer: hears of everything that happens.
        before_layer: called before every layer of a pass; what it raises ends the pass and fails its jobs.
    """

    def __init__(
        self,
        parts: Parts,
        sessions: SessionPool,
        observer: SchedulerObserver = _SILENT,
        before_layer: BeforeLayer = nothing,
    ) -> None:
        self._parts, self.sessions, self._observer = parts, sessions, observer
        self._before_layer = before_layer if parts.elastic is None else parts.elastic.watching(before_layer)
        self._running: list[Sequence] = []
        self._batch_width: BatchWidth[Sequence] = BatchWidth(len(sessions.sessions))
        self._policies = RequestPolicies(parts.active)
        self._tokens_run = 0

    @property
    def num_running(self) -> int:
        """Jobs that have started and are not over."""
        return len(self._running)

    def begin(self, job: Job) -> Sequence:
        """Start a job in an idle session, of which there must be one.

        Raises:
            ConfigError: its policy cannot be served.
            ExpertReadError: the bundle's files are missing or changed, or the drive does not answer.
        """
        parts = self._parts
        policy = self._policies.get(job.policy, [s.policy for s in self._running])
        parts.cache.begin_request()
        own = None if policy is None else job.policy
        session, kept = self.sessions.acquire(job.prompt_ids, reuse_prefix=job.reuse_prefix, policy=own)
        try:
            if not kept and not self._running:
                parts.active.policy.begin_sequence()
                parts.cache.begin_sequence()
            sequence = self._sequence(job, session, kept, policy)
        except BaseException:
            self.sessions.release(session)
            raise
        self._running.append(sequence)
        self._observer.on_started(sequence, len(self._running))
        return sequence

    def step(self, next_job: Callable[[], Job | None] = _nothing_waits) -> bool:
        """Run one step.

        Args:
            next_job: returns the job that waits longest, None without one.

        Returns:
            Whether a pass ran; False: nothing is running.
        """
        self.tend()
        self._end_expired()
        self._admit(next_job)
        if not self._running:
            return False
        self._run_pass(self._batch_width.choose(self._running))
        return True

    def resume(self) -> None:
        """The caller was away: count the time since the last step for no sequence."""
        for sequence in self._running:
            sequence.resume()

    def drop(self, sequence: Sequence) -> None:
        """Forget a job, whatever state it is in; its session keeps what was run. Nothing happens if it is over."""
        if sequence in self._running:
            self._retire(sequence, "cancelled")

    def drop_all(self, err: Exception | None = None) -> None:
        """Forget every job; each is told of the error, if there is one."""
        for sequence in list(self._running):
            self._retire(sequence, "error" if err else "cancelled")
            if err is not None:
                sequence.job.tell(err)
        self.sessions.release_all()  # a start that was interrupted may have left one busy

    def apply(self, change: Reload) -> None:
        """Change settings between two steps; running jobs go on under the new ones. See `reconfigure`.

        Raises:
            ConfigError, BundleError: the change is impossible; everything stays as it was.
            BudgetError: the system refused the memory; settings stay as they were, experts are read anew.
        """
        reconfigure(self._parts, change)
        if self._parts.elastic is not None:
            self._parts.elastic.start_over(self._parts.plan)
        if change.starts_over:
            if self._parts.preload is not None:
                self._parts.preload.save()  # as between two runs
            self.sessions.forget()
            self._policies.forget()
        self._batch_width.forget()  # what paid with the old arena or policy may not pay now
        self._observer.on_reload()

    def tend(self) -> bool:
        """See to memory and preloading between two steps; return whether that wants to go on soon."""
        if self._parts.elastic is not None and self._parts.elastic.follow():
            self._batch_width.forget()
            self._observer.on_reload()
        return self._parts.preload is not None and self._parts.preload.step()

    def _sequence(self, job: Job, session: Session, kept: int, policy: Policy | None) -> Sequence:
        parts, group = self._parts, job.group
        group.start = group.start or Start(monotonic(), parts.cache.counters, self._tokens_run)
        return sequence_of(job, session, parts, cached=kept, policy=policy, request=group.start)

    def _end_expired(self) -> None:
        for sequence in list(self._running):
            if sequence.job.is_cancelled:
                self._finish(sequence, "cancelled")
            elif sequence.is_out_of_time:
                self._finish(sequence, "length", limit="time")

    def _admit(self, next_job: Callable[[], Job | None]) -> None:
        """Start waiting jobs in their order while there are idle sessions."""
        while self.sessions.has_idle and (job := next_job()) is not None:
            try:
                self.begin(job)
            except Exception as err:  # noqa: BLE001 - one request's trouble must not end the others
                self._observer.on_dropped("error", err)
                job.tell(err)

    def _run_pass(self, chosen: list[Sequence]) -> None:
        """Run the next token of everyone who decodes, and a chunk of the oldest prompt."""
        decoder, cost = self._parts.decoder, None
        prompts = [s for s in chosen if s.is_prefilling][:1]
        if len(self._running) > 1:
            prompts = [prompt for prompt in prompts if self._share_prefix(prompt)]
            cost = CostMeter(self._parts.cache)
        work = [s for s in chosen if not s.is_prefilling] + prompts
        if not work:
            return
        is_alone = len(self._running) == 1
        steps = [s.next_step(decoder.max_chunk, is_alone=is_alone) for s in work]
        try:
            logits = decoder.step(steps, self._before_layer)
        except Exception as err:  # noqa: BLE001 - nothing of the pass was kept: its requests fail, the others go on
            for sequence in work:
                self._fail(sequence, err)
            return
        if cost is not None:
            self._batch_width.note(cost.read(len(work)), slots=self._parts.cache.num_slots, has_prompt=bool(prompts))
        self._observer.on_pass(self._batch_width.width)
        for sequence in self._running:
            sequence.concurrent = max(sequence.concurrent, len(work))
        self._tokens_run += sum([len(step.token_ids) - step.drafts for step in steps])
        for sequence, step, rows in zip(work, steps, logits, strict=True):
            self._take(sequence, step, rows)

    def _share_prefix(self, prompt: Sequence) -> bool:
        """Take over what others have run of a prompt; return whether its request can go on."""
        try:
            share_prefix(prompt, self._running, self._observer)
        except Exception as err:  # noqa: BLE001 - a copy that failed ends the request it was for, and no other
            self._fail(prompt, err)
            return False
        return True

    def _take(self, sequence: Sequence, step: SequenceStep, logits: F32) -> None:
        """Tell a sequence that its step has run, and whoever waits what came of it."""
        was_prefilling = sequence.is_prefilling
        try:
            with self._parts.decoder.spans.host_span("sampling"):
                events = sequence.take(step, logits)
        except Exception as err:  # noqa: BLE001 - the others go on
            self._fail(sequence, err)
            return
        if was_prefilling:
            self._observer.on_prompt(len(step.token_ids))
        if step.drafts:
            self._tokens_run += len(events) - 1
            self._observer.on_drafts(step.drafts, len(events) - 1)
        for event in events:
            if isinstance(event, Exception):
                self._fail(sequence, event)
                return
            if event is not events[0] and sequence.job.is_cancelled:
                return  # the next step ends it
            if isinstance(event, TokenEvent):
                self._observer.on_token(sequence)
            sequence.job.tell(event)
        if sequence.finish_reason is not None:
            self._finish(sequence, sequence.finish_reason)

    def _finish(self, sequence: Sequence, reason: str, *, limit: str | None = None) -> None:
        reason = sequence.job.name_reason(reason, sequence.text)
        self._retire(sequence, "timeout" if limit else reason)
        outcome = make_outcome(self._parts, sequence, reason, tokens_run=self._tokens_run, limit=limit)
        sequence.job.tell(outcome)

    def _fail(self, sequence: Sequence, err: Exception) -> None:
        self._retire(sequence, "error", err)
        sequence.job.tell(err)

    def _retire(self, sequence: Sequence, reason: str, err: Exception | None = None) -> None:
        sequence.job.constraint, sequence.ended = None, monotonic()  # who waits for its other jobs may keep this one
        self.sessions.release(sequence.session)
        self._running.remove(sequence)
        self._observer.on_ended(sequence, reason, len(self._running), err)
