"""The device: queues of work and the thread that runs them, as late as the host allows or at random moments."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from patience import PATIENCE_S

from edge_runtime.base.errors import DeviceError

COPY, COMPUTE = "copy", "compute"
TICK_NS = 1000
"""Time a computation takes by the device's own clock, whatever the host's clock says."""


def _nothing() -> None:
    """Nobody wants to know."""


class Work(NamedTuple):
    """Something queued.

    Attributes:
        kind: what it counts as.
        run: does it.
        over: told when it has run or failed.
    """

    kind: str
    run: Callable[[], None]
    over: Callable[[], None]


class LateEvent:
    """The point in a queue where it was recorded. Implements `Event`."""

    def __init__(self, device: Device, stream: str, ticket: int) -> None:
        self.device, self.stream, self.ticket = device, stream, ticket
        self.error: Exception | None = None
        self.is_over = False

    def is_done(self) -> bool:
        """Whether the work before it is over; asking makes nothing run."""
        self.device.give_chance()
        return self._passed()

    def wait(self, timeout_s: float) -> bool:
        """Have the work before it run, and wait for that."""
        self.device.run_until(self, timeout_s)
        return self._passed()

    def _passed(self) -> bool:
        if self.error is not None:
            self.device.forget(self.stream, self.error)
            raise DeviceError(f"device: {self.error}") from self.error
        return self.is_over


class Device:
    """Two queues, each in order; nothing but the host's waits puts one behind the other.

    Args:
        mode: `late` or `random:SEED`.
    """

    def __init__(self, mode: str) -> None:
        name, _, seed = mode.partition(":")
        assert name in ("late", "random"), mode
        self._is_random = name == "random"
        self._host_dice, self._own_dice = random.Random(seed), random.Random(f"{seed} device")
        self._changed = threading.Condition()
        self._queues: dict[str, deque[Work]] = {COPY: deque(), COMPUTE: deque()}
        self._pushed, self._passed = Counter[str](), Counter[str]()
        self._wanted = Counter[str]()  # by stream, the ticket somebody waits for
        self._chances = 0  # pieces of work that may run although nobody waits
        self._failed: dict[str, Exception] = {}  # by stream, until the host has heard of it
        self._fails_next: list[str] = []
        self._is_closed = False
        self.now_ns = 0
        self.ran = Counter[str]()
        self._thread: threading.Thread | None = None

    def push(self, stream: str, kind: str, run: Callable[[], None], over: Callable[[], None] = _nothing) -> None:
        """Queue work and return."""
        with self._changed:
            assert not self._is_closed, "the device was closed"
            if self._thread is None:  # a backend is also made where nothing is ever loaded
                self._thread = threading.Thread(target=self._work, name="late device", daemon=True)
                self._thread.start()
            self._queues[stream].append(Work(kind, run, over))
            self._pushed[stream] += 1
        self.give_chance()

    def record(self, stream: str) -> LateEvent:
        """Mark all work queued so far. Events tell of a failure until the host has heard of it."""
        with self._changed:
            event = LateEvent(self, stream, self._pushed[stream] + 1)

        def passed() -> None:
            event.error, event.is_over = self._failed.get(stream), True

        self.push(stream, "event", passed)
        return event

    def finish(self, stream: str = COMPUTE) -> None:
        """Wait for all work queued so far."""
        assert self.record(stream).wait(PATIENCE_S), "the device is stuck"

    def give_chance(self) -> None:
        """Let some work run, at random; in mode `late` none does before it must."""
        if self._is_random:
            with self._changed:
                self._chances += self._host_dice.choice((0, 0, 1, 2))
                self._changed.notify_all()

    def run_until(self, event: LateEvent, timeout_s: float) -> None:
        """Run a queue as far as an event; other queues only as chance has it."""
        with self._changed:
            self._wanted[event.stream] = max(self._wanted[event.stream], event.ticket)
            self._changed.notify_all()
            self._changed.wait_for(lambda: event.is_over, timeout_s)

    def forget(self, stream: str, error: Exception) -> None:
        """The host knows of a failure; later work counts by itself."""
        if self._failed.get(stream) is error:
            del self._failed[stream]

    def fail_next(self, kind: str, skip: int = 0) -> None:
        """Make the next work of a kind fail, or a later one."""
        self._fails_next = [kind] * (skip + 1)

    def num_queued(self, stream: str) -> int:
        """Pieces of work that have not run."""
        return len(self._queues[stream])

    @property
    def is_closed(self) -> bool:
        """Whether its thread has ended."""
        return self._is_closed and (self._thread is None or not self._thread.is_alive())

    @property
    def is_inside(self) -> bool:
        """Whether this is the device's own thread."""
        return threading.current_thread() is self._thread

    def require_inside(self, what: str) -> None:
        """Refuse the host what only the device may touch."""
        if not self.is_inside:
            raise DeviceError(f"{what} is in device memory: the host cannot touch it")

    def close(self) -> None:
        """End the thread; what was not waited for never runs. Safe to call twice."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._choices())
                if self._is_closed:
                    return
                stream = self._own_dice.choice(self._choices())
                if self._wanted[stream] <= self._passed[stream]:
                    self._chances -= 1
                work = self._queues[stream].popleft()
            if self._is_random and self._own_dice.random() < 0.05:
                time.sleep(self._own_dice.random() * 1e-3)
            self._run(stream, work)
            with self._changed:
                self._passed[stream] += 1
                self._changed.notify_all()

    def _choices(self) -> list[str]:
        """Streams of which something may run now."""
        return [
            stream
            for stream, queue in self._queues.items()
            if queue and (self._chances > 0 or self._wanted[stream] > self._passed[stream])
        ]

    def _run(self, stream: str, work: Work) -> None:
        if stream == COMPUTE and work.kind not in ("event", "mark"):
            self.now_ns += TICK_NS
        self.ran[work.kind] += 1
        try:
            if work.kind in self._fails_next and self._fails_next.pop() and not self._fails_next:
                raise DeviceError(f"scripted failure of {work.kind}")
            work.run()
        except Exception as err:  # noqa: BLE001 - reported by the next event, as a device does
            self._failed.setdefault(stream, err)
        finally:
            work.over()


class Mark:
    """A point in the device's work, and its time once the work has passed it."""

    ns: int | None = None


class DeviceClock:
    """Measures by the device's time. Implements `Clock`."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def mark(self) -> Mark:
        """Queue a mark."""
        mark = Mark()

        def passed() -> None:
            mark.ns = self._device.now_ns

        self._device.push(COMPUTE, "mark", passed)
        return mark

    def elapsed_ns(self, end: Mark, start: Mark) -> int | None:
        """Return the time between two marks; None while the work has not passed the second."""
        return None if end.ns is None or start.ns is None else end.ns - start.ns
