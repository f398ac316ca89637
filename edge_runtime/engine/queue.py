"""What waits for the serving loop: jobs in their order, reloads, and the wish to stop. Safe from any thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future

from edge_runtime.base.errors import RequestError
from edge_runtime.engine.job import Job
from edge_runtime.engine.observer import SchedulerObserver
from edge_runtime.engine.reload import Reload


class QueueFullError(RequestError):
    """As many requests wait as may.

    Attributes:
        waiting: how many that is.
    """

    def __init__(self, waiting: int) -> None:
        super().__init__(f"queue: {waiting} requests are waiting already, which is all that may. Try again later.")
        self.waiting = waiting


class ShuttingDownError(RequestError):
    """Nothing new is accepted, and what waited is given up."""

    def __init__(self) -> None:
        super().__init__("engine: it is shutting down.")


class JobQueue:
    """A bounded queue in order of arrival.

    Args:
        observer: hears of refusals and of how many wait.
        max_waiting: requests that may wait beyond those that can start at once.
        sessions: jobs that may run at once.
    """

    def __init__(self, observer: SchedulerObserver, *, max_waiting: int, sessions: int) -> None:
        self._observer, self._max_waiting, self._sessions = observer, max_waiting, sessions
        self._jobs: deque[Job] = deque()
        self._reloads: deque[tuple[Reload, Future[None]]] = deque()
        self._wake = threading.Condition()
        self.is_draining = False
        self.is_stopping = False

    @property
    def is_empty(self) -> bool:
        """Whether no job waits."""
        return not self._jobs

    def put(self, jobs: Sequence[Job], num_running: int) -> None:
        """Add the jobs of one request: all of them or none. They take one place, however many they are.

        Args:
            jobs: what to run, of one group.
            num_running: jobs that run now.

        Raises:
            QueueFullError: no more may wait.
            ShuttingDownError: nothing new is accepted.
        """
        with self._wake:
            if self.is_draining:
                self._observer.on_rejected("draining")
                raise ShuttingDownError
            begun = sum(job.group.start is not None for job in self._jobs)
            waiting = len({id(job.group) for job in self._jobs if job.group.start is None})
            idle = self._sessions - num_running - begun
            if waiting >= self._max_waiting + max(idle, 0):
                self._observer.on_rejected("queue_full")
                raise QueueFullError(waiting)
            self._jobs.extend(jobs)
            self._wake.notify()

    def request_reload(self, change: Reload) -> Future[None]:
        """Add a change to apply between two passes; refused while draining."""
        future: Future[None] = Future()
        with self._wake:
            if self.is_draining:
                future.set_exception(ShuttingDownError())
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
        self._observer.on_waiting(waiting)
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
            if future.set_running_or_notify_cancel():
                future.set_exception(ShuttingDownError())
        return jobs
