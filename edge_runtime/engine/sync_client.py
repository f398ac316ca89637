"""One request at a time, in the caller's thread: what `Engine` is a face of."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edge_runtime.base.arrays import F32, I32
from edge_runtime.engine.continuation import TextDelta
from edge_runtime.engine.exclusive import ExclusiveUse
from edge_runtime.engine.job import Event, Job, LogitsEvent, Outcome, TokenEvent
from edge_runtime.engine.parts import Parts
from edge_runtime.engine.reload import Reload
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.engine.scheduler import Scheduler
from edge_runtime.engine.sequence import Sequence
from edge_runtime.engine.sessions import SessionPool

if TYPE_CHECKING:
    from edge_runtime.engine.elastic.idle_watch import IdleWatch


class SyncClient:
    """Drives a scheduler of one session for whoever iterates.

    Args:
        parts: the engine's.

    Attributes:
        use: who may use the parts, and whether they are closed.
        latest: the job that generated last, running or over.
    """

    def __init__(self, parts: Parts) -> None:
        self.use, self._parts = ExclusiveUse(parts.close), parts
        self.latest: Sequence | None = None
        self._scheduler = Scheduler(parts, SessionPool([parts.kv]), before_layer=self.use.require_open)
        self._events: deque[Event] = deque()  # of the job that runs

    def stream(self, prompt_ids: I32, params: SamplingParams, *, reuse_prefix: bool) -> Iterator[TextDelta]:
        """Run a request; yield what each token adds.

        Raises:
            RequestError: another request is running, or the engine was closed.
            ExpertReadError: the drive failed.
        """
        with self.use.claim():
            job = Job(prompt_ids, params, self._events.append, reuse_prefix=reuse_prefix)
            self.latest = sequence = self._begin(job)
            for event in self._run(sequence):
                if isinstance(event, TokenEvent):
                    yield event.delta

    def score(self, token_ids: I32, chunk: int) -> Iterator[tuple[int, F32]]:
        """Run a text from an empty KV cache, as a part of a request that has claimed the engine.

        Yields:
            Of every chunk its first position, and the logits float32 [t, V] after each of its tokens.
        """
        if not len(token_ids):
            return
        job = Job(token_ids, SamplingParams(), self._events.append, score_chunk=chunk)
        for event in self._run(self._begin(job)):
            if isinstance(event, LogitsEvent):
                yield event.start, event.logits

    def apply(self, change: Reload) -> None:
        """Change settings: memory alone between two passes of a request that runs, all else as a request of its own.

        See `Scheduler.apply`.
        """
        if not change.starts_over:
            self.use.interject(lambda: self._scheduler.apply(change))
            return
        with self.use.claim():
            self.use.compute(lambda: self._scheduler.apply(change))

    def start_over(self) -> None:
        """Forget what ran, as a request of its own; a warm start does not remember it either."""

        def forget() -> None:
            if self._parts.preload is not None:
                self._parts.preload.forget()  # first: what starts over is remembered
            self._scheduler.apply(Reload(policy=self._parts.active.text))

        with self.use.claim():
            self.use.compute(forget)

    def tend(self) -> bool:
        """See to what goes on between requests; see `Scheduler.tend`. Where nothing runs, somebody has to call this.

        Raises:
            RequestError: the engine was closed or handed over.
        """
        return self.use.interject(self._scheduler.tend)

    def watch_when_idle(self) -> IdleWatch:
        """Have a thread call `tend` while no request runs, until it is told to stop."""
        from edge_runtime.engine.elastic.idle_watch import IdleWatch

        return IdleWatch(self.tend, lambda: self.use.parts_begun)

    def _begin(self, job: Job) -> Sequence:
        """Start a job as the only one: of a request that was interrupted, nothing may be left."""

        def begin() -> Sequence:
            self._scheduler.drop_all()
            self._events.clear()
            return self._scheduler.begin(job)

        return self.use.compute(begin)

    def _run(self, sequence: Sequence) -> Iterator[Event]:
        """Drive the scheduler in this thread, event by event; a job that is abandoned half-way is dropped."""
        try:
            while (event := self.use.compute(self._next_event)) is not None:
                yield event
        finally:
            self._scheduler.drop(sequence)

    def _next_event(self) -> Event | None:
        """Return what the job that runs gives next, None once it is over."""
        self._scheduler.resume()
        while not self._events and self._scheduler.step():
            pass
        event = self._events.popleft() if self._events else None
        if not isinstance(event, Exception):
            return None if isinstance(event, Outcome) else event
        try:
            raise event
        finally:
            del event  # or the traceback keeps the arrays of its frames alive, in a cycle
