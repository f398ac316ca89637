"""The serving loop: a thread that takes jobs and reloads from a queue and drives the scheduler."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from edge_runtime.engine.heap_trim import HeapTrim
from edge_runtime.engine.job import Job
from edge_runtime.engine.observer import SchedulerObserver
from edge_runtime.engine.queue import JobQueue, ShuttingDownError
from edge_runtime.engine.reload import Reload
from edge_runtime.engine.scheduler import Scheduler

_IDLE_S, _BUSY_S = 0.5, 0.005


class ServingLoop:
    """Serves jobs from any thread in one of its own. Between two steps it looks at reloads and at the queue.

    Args:
        scheduler: runs the jobs; nobody else may use it while the loop runs.
        observer: hears of the queue, and of every step and idle tick.
        max_waiting: requests that may wait beyond those that can start at once.
    """

    def __init__(self, scheduler: Scheduler, observer: SchedulerObserver, *, max_waiting: int) -> None:
        self._scheduler, self._observer = scheduler, observer
        self._queue = JobQueue(observer, max_waiting=max_waiting, sessions=len(scheduler.sessions.sessions))
        self._heap_trim = HeapTrim()
        self._thread = threading.Thread(target=self._run, name="hobbit-serving", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._observer.on_step()
        self._thread.start()

    def submit(self, *jobs: Job) -> None:
        """Queue the jobs of one request.

        Raises:
            QueueFullError: no more may wait.
            ShuttingDownError: nothing new is accepted.
        """
        self._queue.put(jobs, self._scheduler.num_running)

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
        """Apply a change between two steps."""
        return self._queue.request_reload(change)

    # everything below runs in the loop's thread

    def _run(self) -> None:
        try:
            while not self._is_over():
                self._iterate()
        finally:
            self._end_all()

    def _is_over(self) -> bool:
        queue = self._queue
        return queue.is_stopping or (queue.is_draining and queue.is_empty and not self._scheduler.num_running)

    def _iterate(self) -> None:
        self._apply_reloads()
        for _ in self._queue.take_cancelled():
            self._observer.on_dropped("cancelled")
        if self._scheduler.step(self._queue.take):
            self._heap_trim.worked()
        else:
            self._heap_trim.idle()
            self._queue.wait(_BUSY_S if self._scheduler.tend() else _IDLE_S)
        self._observer.on_step()

    def _apply_reloads(self) -> None:
        while (asked := self._queue.take_reload()) is not None:
            change, future = asked
            if not future.set_running_or_notify_cancel():
                continue  # whoever asked has given it up, and said so
            try:
                self._scheduler.apply(change)
                future.set_result(None)
            except Exception as err:  # noqa: BLE001 - whoever asked gets it
                future.set_exception(err)

    def _end_all(self) -> None:
        """The loop is over: whoever still waits is told."""
        waiting = self._queue.close()
        self._scheduler.drop_all(ShuttingDownError())
        for job in waiting:
            job.tell(ShuttingDownError())
