"""Order of work on the GPU: streams, events between them, graphs of work that is repeated."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager

from edge_runtime.backends.cuda.driver.device import Device
from edge_runtime.backends.cuda.driver.errors import NOT_READY, make_error
from edge_runtime.backends.cuda.driver.held import HeldLaunches

_NON_BLOCKING, _NO_TIMING, _THREAD_LOCAL = 1, 2, 1
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 20e-6, 1e-3


class Event:
    """A point in the work of a stream.

    Args:
        device: the GPU.
        timed: `ms_since` can be asked.
    """

    def __init__(self, device: Device, timed: bool = False) -> None:
        self.device = device
        handle = device.handle_from("cuEventCreate", 0 if timed else _NO_TIMING)
        self._handle: int | None = device.own("cuEventDestroy_v2", handle)

    @property
    def handle(self) -> int:
        """The driver's."""
        assert self._handle is not None, "the event is closed"
        return self._handle

    def is_done(self) -> bool:
        """Whether all work before the last `Stream.record` is over; an event never recorded is.

        Raises:
            CudaError: that work failed.
        """
        code = self.device.status("cuEventQuery", self.handle)
        if code not in (0, NOT_READY):
            raise make_error("cuEventQuery", code, self.device.driver.error_name(code))
        return code == 0

    def synchronize(self) -> None:
        """Wait until it is done, without a limit.

        Raises:
            CudaError: the work failed.
        """
        self.device.call("cuEventSynchronize", self.handle)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is done, or for so long; return whether it is.

        Raises:
            CudaError: the work failed.
        """
        end, pause = time.monotonic() + timeout_s, _FIRST_PAUSE_S
        while not self.is_done():
            if time.monotonic() >= end:
                return False
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        return True

    def ms_since(self, earlier: Event) -> float:
        """Return the milliseconds between two timed events that are done."""
        out = ctypes.c_float()
        self.device.call("cuEventElapsedTime", ctypes.byref(out), earlier.handle, self.handle)
        return out.value

    def close(self) -> None:
        """Give it back. Safe to call twice."""
        handle, self._handle = self._handle, None
        self.device.release("cuEventDestroy_v2", handle)


class Stream:
    """Work that runs in order. Streams run beside one another but for what events order.

    Attributes:
        holds: launches are held back until anything else is asked of the stream.
        held: those launches.
    """

    def __init__(self, device: Device) -> None:
        self.device, self.holds, self.held = device, False, HeldLaunches(self)
        handle = device.handle_from("cuStreamCreate", _NON_BLOCKING)
        self._handle: int | None = device.own("cuStreamDestroy_v2", handle)

    @property
    def handle(self) -> int:
        """The driver's; what was held back is started first, because whoever asks comes behind it."""
        assert self._handle is not None, "the stream is closed"
        if self.held.is_waiting:
            self.held.start()
        return self._handle

    def record(self, event: Event) -> Event:
        """Mark the end of the work so far, and return the event."""
        self.device.call("cuEventRecord", event.handle, self.handle)
        return event

    def wait_for(self, event: Event) -> None:
        """Let later work of this stream start when an event of another one is done. The host does not wait."""
        self.device.call("cuStreamWaitEvent", self.handle, event.handle, 0)

    def synchronize(self) -> None:
        """Wait on the host until all work is over.

        Raises:
            CudaError: work failed.
        """
        self.device.call("cuStreamSynchronize", self.handle)

    @contextmanager
    def capture(self) -> Iterator[Graph]:
        """Record the kernels and copies given to this stream into a graph instead of running them.

        Yields:
            The graph, which can be launched after the block. An error in the block discards it.
        """
        graph = Graph(self.device)
        self.device.call("cuStreamBeginCapture_v2", self.handle, _THREAD_LOCAL)
        try:
            yield graph
        except BaseException:
            graph.discard(self)
            raise
        graph.finish(self)

    def close(self) -> None:
        """Finish its work and give it back. Safe to call twice."""
        self.held.close()
        handle, self._handle = self._handle, None
        self.device.release("cuStreamDestroy_v2", handle)


class Graph:
    """Work that is launched as one: made by `Stream.capture`."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._handle: int | None = None

    def finish(self, stream: Stream) -> None:
        """End the capture of a stream and make the graph ready to launch."""
        captured = self._end(stream)
        try:
            made = self.device.handle_from("cuGraphInstantiateWithFlags", captured, 0)
            self._handle = self.device.own("cuGraphExecDestroy", made)
        finally:
            self.device.release("cuGraphDestroy", captured)

    def discard(self, stream: Stream) -> None:
        """End the capture of a stream and forget it."""
        self.device.release("cuGraphDestroy", self._end(stream))

    def _end(self, stream: Stream) -> int:
        out = ctypes.c_uint64()
        self.device.call("cuStreamEndCapture", stream.handle, ctypes.byref(out))
        return self.device.own("cuGraphDestroy", out.value)

    def launch(self, stream: Stream) -> None:
        """Run it in the order of a stream."""
        assert self._handle is not None, "the graph was not captured, or is closed"
        self.device.call("cuGraphLaunch", self._handle, stream.handle)

    def close(self) -> None:
        """Give it back. Safe to call twice."""
        handle, self._handle = self._handle, None
        self.device.release("cuGraphExecDestroy", handle)
