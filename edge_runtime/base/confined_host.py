"""The host process of `ConfinedHost`, run as a program: it loads libraries once and forks for every job."""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from edge_runtime.base.messages import receive, send
from edge_runtime.base.sizes import format_size


def serve(control: socket.socket, names: Sequence[str]) -> None:
    """Fork for every connection that comes, until the other side of the control socket is closed."""
    from importlib import import_module

    functions = {}
    for name in names:
        module, _, function = name.partition(":")
        functions[name] = getattr(import_module(module), function)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are not waited for
    while True:
        fds = array.array("i")
        data, ancillary, _, _ = control.recvmsg(1, socket.CMSG_LEN(fds.itemsize))
        if not data:
            os.killpg(0, signal.SIGKILL)  # whoever asked has gone, and so do jobs that still run
        for _, _, raw in ancillary:
            fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
        with socket.socket(fileno=fds[0]) as connection:
            if os.fork() == 0:
                control.close()
                _work(connection, functions)


def _work(connection: socket.socket, functions: dict[str, Any]) -> None:
    """Do one job and end this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    memory_bytes = 0
    try:
        name, argument, cpu_s, memory_bytes = json.loads(receive(connection))
        _confine(cpu_s, memory_bytes)
        answer = ["done", functions[name](argument)]
    except MemoryError:
        answer = ["error", f"it takes more than {format_size(memory_bytes)} of memory"]
    except RecursionError:
        answer = ["error", "it is nested too deeply"]
    except BaseException as err:  # noqa: BLE001 - even a panic of a library in Rust is an answer
        answer = ["error", str(err)[:1000] or type(err).__name__]
    try:
        send(connection, json.dumps(answer).encode())
    finally:
        os._exit(0)


def _confine(cpu_s: int, memory_bytes: int) -> None:
    import resource

    with open("/proc/self/statm", "rb") as file:
        data_pages = int(file.read().split()[5])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    most = data_pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


if __name__ == "__main__":
    descriptor, *given = sys.argv[1:]
    serve(socket.socket(fileno=int(descriptor)), given)
