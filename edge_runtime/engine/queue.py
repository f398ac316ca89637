"""What waits for the serving loop: jobs in their order, reloads, and the wish to stop. Safe from any thread."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future

from edge_runtime.engine.job import Job
from edge_runtime.service.openai.api_errors import queue_full, unavailable
from edge_runtime.service.ops.events import Reload, ServiceStats


class JobQueue:
    """A bounded queue in order of arrival.

    Args:
        stats: figures to keep.
        max_waiting: jobs that may wait beyond those that can start at once.
        sessions: requests that may run at once.
    """

    def __init__(self, stats: ServiceStats, *, max_waiting: int, sessions: int) -> None:
        self._stats, self._max_waiting, self._sessions = stats, max_waiting, sessions
        self._jobs: deque[Job] = deque()
        self._reloads: deque[tuple[Reload, Future[None]]] = deque()
        self._wake = threading.Condition()
        self.is_draining = False
        self.is_stopping = False

    @property
    def is_empty(self) -> bool:
        """Whether no job waits."""
        return not self._jobs

    def put(self, job: Job, num_running: int) -> None:
        """Add a job.

        Args:
            job: what to run.
            num_running: requests that run now.

        Raises:
            ApiError: the queue is full, or the service is draining.
        """
        with self._wake:
            if self.is_draining:
                self._count_rejection("draining")
                raise unavailable("it is shutting down", "draining")
            idle = self._sessions - num_running
            if len(self._jobs) >= self._max_waiting + max(idle, 0):
                self._count_rejection("queue_full")
                raise queue_full(len(self._jobs), self._retry_after_s())
            self._jobs.append(job)
            self._wake.notify()

    def request_reload(self, change: Reload) -> Future[None]:
        """Add a change to apply between two passes; refused while draining."""
        future: Future[None] = Future()
        with self._wake:
            if self.is_draining:
                future.set_exception(unavailable("it is shutting down", "draining"))
            else:
                self._reloads.append((change, future))
                self._wake.notify()
        return future

    def drain(self) -> None:
        """Refuse new jobs."""
        with self._wake:
            self.is_draining = True
            self._wake.notify()

    def stop(self) -> None:
        """Refuse new jobs, and run none of those that wait."""
        with self._wake:
            self.is_stopping = self.is_draining = True
            self._wake.notify()

    def take(self) -> Job | None:
        """Return the job that waits longest, None without one."""
        with self._wake:
            return self._jobs.popleft() if self._jobs else None

    def take_cancelled(self) -> list[Job]:
        """Remove and return the jobs nobody waits for any more."""
        with self._wake:
            gone = [job for job in self._jobs if job.is_cancelled]
            for job in gone:
                self._jobs.remove(job)
            waiting = len(self._jobs)
        with self._stats.update() as figures:
            figures.waiting = waiting
        return gone

    def take_reload(self) -> tuple[Reload, Future[None]] | None:
        """Return the oldest change and who waits for it, None without one."""
        with self._wake:
            return self._reloads.popleft() if self._reloads else None

    def wait(self, timeout_s: float) -> None:
        """Block until there is something to do, at most this long."""
        with self._wake:
            if not (self._jobs or self._reloads or self.is_draining):
                self._wake.wait(timeout_s)

    def close(self) -> list[Job]:
        """The loop is over: refuse everything from now on; return the jobs that still waited."""
        with self._wake:
            self.is_draining = True
            jobs, self._jobs = list(self._jobs), deque()
            reloads, self._reloads = list(self._reloads), deque()
        for _, future in reloads:
            future.set_exception(unavailable("it is shutting down", "draining"))
        return jobs

    def _count_rejection(self, reason: str) -> None:
        with self._stats.update() as figures:
            figures.rejected[reason] += 1

    def _retry_after_s(self) -> int:
        """About when the next session becomes free: the mean length of a request."""
        figures = self._stats.read()
        done = figures.e2e_latency.count
        mean = figures.e2e_latency.sum / done if done else 1.0
        return max(1, min(60, round(mean / max(1, self._sessions))))
