"""Work on untrusted input in a process of its own, which the kernel ends when it takes too much time or memory.

A chat template loops for ever in two lines, and a grammar of 500 bytes compiles to gigabytes; neither can be stopped
inside this process. So a *host* process is started once, with the libraries loaded, and forks for every job. The fork
has a limit of processor time and of memory, does one job, answers, and is gone; nothing it did is left behind.

The host is the program `edge_runtime.base.confined_host`. A job is a function named ``module:function`` that takes and
returns plain JSON data. What may be called is fixed when the host is started.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from edge_runtime.base.errors import DeviceError, HobbitError
from edge_runtime.base.sizes import MIB, format_size

if TYPE_CHECKING:
    import socket
    import subprocess

_PROGRAM = "edge_runtime.base.confined_host"
_WALL_S = 30.0
"""Time after which an answer is given up: the kernel counts processor time, and a busy machine gives little of it."""


class JobRefusedError(HobbitError):
    """A job exceeded its limits, or raised; the message says which."""


@dataclass(frozen=True)
class Limits:
    """What a job may take.

    Attributes:
        cpu_s: processor seconds.
        memory_bytes: memory beyond what the host holds.
        at_once: jobs of this kind that run side by side; more wait.
    """

    cpu_s: int = 2
    memory_bytes: int = 32 * MIB
    at_once: int = 1


_hosts: weakref.WeakSet[ConfinedHost] = weakref.WeakSet()


def reserved_bytes() -> int:
    """Return the memory that the hosts of this process and their jobs may take, for the memory plan."""
    return sum(host.reserved_bytes for host in list(_hosts))


def held_bytes() -> int:
    """Return the anonymous memory that the hosts of this process hold now: memory that no file backs, as it counts."""
    return sum(host.held_bytes for host in list(_hosts))


class ConfinedHost:
    """Starts the host at first use and runs jobs in it. Safe for several threads.

    Args:
        jobs: limits of the functions it may run, by ``module:function``; the host imports their modules once.
    """

    def __init__(self, jobs: Mapping[str, Limits]) -> None:
        self._jobs = dict(jobs)
        self._places = {name: threading.BoundedSemaphore(limits.at_once) for name, limits in jobs.items()}
        self._lock = threading.Lock()
        self._host: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._is_closed = False
        _hosts.add(self)

    @property
    def reserved_bytes(self) -> int:
        """Memory the host holds now, and what its jobs may take beside it."""
        with self._lock:
            host = self._host
            held = _pages_bytes(host.pid) if host is not None else 0
        return held + sum(limits.memory_bytes * limits.at_once for limits in self._jobs.values())

    @property
    def held_bytes(self) -> int:
        """Anonymous memory of the host itself; its jobs are gone again before that matters. Never waits."""
        host = self._host
        return _pages_bytes(host.pid, without_files=True) if host is not None else 0

    def start(self) -> None:
        """Start the host now, so that the first job does not wait for it. It loads its libraries meanwhile."""
        with self._lock:
            self._ensure()

    def run(self, job: str, argument: Any) -> Any:
        """Run a job and return what it returned.

        Args:
            job: one of the functions given at the start.
            argument: plain JSON data.

        Raises:
            JobRefusedError: it took too much time or memory, or raised.
            DeviceError: the host cannot be started.
        """
        import socket  # what starting an engine does not need is loaded by the first job

        from edge_runtime.base.messages import receive, send

        limits = self._jobs[job]
        ours, theirs = socket.socketpair()
        with ours, self._places[job]:
            with theirs:
                self._hand_over(theirs)
            try:
                send(ours, json.dumps([job, argument, limits.cpu_s, limits.memory_bytes]).encode())
                kind, value = json.loads(receive(ours, monotonic() + _WALL_S))
            except (OSError, EOFError, ValueError) as err:
                raise JobRefusedError(
                    f"it takes more than {limits.cpu_s} s or {format_size(limits.memory_bytes)} to prepare"
                ) from err
        if kind == "error":
            raise JobRefusedError(str(value))
        return value

    def close(self) -> None:
        """End the host and whatever it runs. Safe to call twice."""
        with self._lock:
            self._is_closed = True
            self._end()

    def __del__(self) -> None:
        """End the host when nobody holds this any more."""
        self._end()

    def _hand_over(self, connection: socket.socket) -> None:
        import socket

        with self._lock:
            for attempt in range(2):
                control = self._ensure()
                try:
                    socket.send_fds(control, [b"j"], [connection.fileno()])
                except OSError as err:  # the host has died
                    self._end()
                    if attempt:
                        raise DeviceError(f"the process for untrusted work ended: {err.strerror}.") from err
                else:
                    return

    def _ensure(self) -> socket.socket:
        if self._is_closed:
            raise JobRefusedError("it is shutting down")
        if self._host is not None and self._control is not None and self._host.poll() is None:
            return self._control
        self._end()
        import socket
        import subprocess

        from edge_runtime.base.children import module_command

        ours, theirs = socket.socketpair()
        command = module_command(_PROGRAM, str(theirs.fileno()), *self._jobs)
        with theirs:
            try:
                self._host = subprocess.Popen(  # noqa: S603 - our own module
                    command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    start_new_session=True,
                )  # fmt: skip
            except OSError as err:
                ours.close()
                raise DeviceError(f"the process for untrusted work cannot be started: {err.strerror}.") from err
        self._control = ours
        return ours

    def _end(self) -> None:
        host, control, self._host, self._control = self._host, self._control, None, None
        if control is not None:
            control.close()
        if host is not None:
            with contextlib.suppress(OSError):
                os.killpg(host.pid, signal.SIGKILL)
            host.wait()


def _pages_bytes(pid: int, *, without_files: bool = False) -> int:
    """Resident set of a process, with pages of files or without; 0 if there is none of that number."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            resident, of_files = map(int, file.read().split()[1:3])
    except (OSError, ValueError):
        return 0
    return (resident - (of_files if without_files else 0)) * os.sysconf("SC_PAGE_SIZE")
