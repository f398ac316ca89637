"""Launches held back until something else needs the stream, and given to it as one graph where they came before."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

LEAST = 16
"""Launches that are worth a graph."""
MOST_KEPT = 8
"""Graphs kept: one a sequence that decodes. The one that ran longest ago goes first."""


class Startable(Protocol):
    """What is held back: a kernel."""

    name: str

    def start(self, stream: Any, grid: tuple[int, int], threads: int, arguments: tuple[Any, ...]) -> None:
        """See `Kernel.start`."""
        ...


class Repeatable(Protocol):
    """What was captured: a graph."""

    def launch(self, stream: Any) -> None:
        """See `Graph.launch`."""
        ...

    def close(self) -> None:
        """See `Graph.close`."""
        ...


class Capturing(Protocol):
    """Whose launches are held back: a stream."""

    def capture(self) -> AbstractContextManager[Repeatable]:
        """See `Stream.capture`."""
        ...


class Launch(NamedTuple):
    """A kernel's launch; its arguments do not change."""

    kernel: Startable
    grid: tuple[int, int]
    threads: int
    arguments: tuple[Any, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal where a launch does the same: the kernel, its size, and every byte of its arguments."""
        return self.kernel.name, self.grid, self.threads, *map(bytes, self.arguments)


class HeldLaunches:
    """What is held back for one stream.

    The first time some launches come they are started one by one, the second time they are captured, and from then on
    they are one launch. Launches differ if any of their arguments do, so a graph is never used for other memory.

    Args:
        stream: they are for.
    """

    def __init__(self, stream: Capturing) -> None:
        self._stream = stream
        self._waiting: list[Launch] = []
        self._graphs: OrderedDict[tuple[Any, ...], Repeatable | None] = OrderedDict()

    @property
    def is_waiting(self) -> bool:
        """Whether anything is held back."""
        return bool(self._waiting)

    def add(self, launch: Launch) -> None:
        """Hold one back."""
        self._waiting.append(launch)

    def start(self) -> None:
        """Start what is held back, in order."""
        waiting, self._waiting = self._waiting, []
        if len(waiting) < LEAST:
            self._start_each(waiting)
            return
        key = tuple(launch.key for launch in waiting)
        is_known = key in self._graphs
        graph = self._graphs.pop(key, None)
        if is_known and graph is None:
            with self._stream.capture() as graph:
                self._start_each(waiting)
        self._graphs[key] = graph
        if graph is None:
            self._start_each(waiting)
        else:
            graph.launch(self._stream)
        while len(self._graphs) > MOST_KEPT:
            _close(self._graphs.popitem(last=False)[1])

    def close(self) -> None:
        """Give the graphs back; what was held back never runs."""
        self._waiting.clear()
        while self._graphs:
            _close(self._graphs.popitem()[1])

    def _start_each(self, launches: list[Launch]) -> None:
        for launch in launches:
            launch.kernel.start(self._stream, launch.grid, launch.threads, launch.arguments)


def _close(graph: Repeatable | None) -> None:
    if graph is not None:
        graph.close()
