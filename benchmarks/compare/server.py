"""Runs the peer's server as a process in a cgroup and puts a cell's requests to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from benchmarks.compare.group import MemoryGroup
from benchmarks.compare.machine import read_by
from benchmarks.compare.peer import SERVER, Abilities, PeerError, command, events, request_body, stages
from benchmarks.compare.workload import MEASURED_STEPS, WARM_STEPS, Mode, Tokens

_START_S = 600.0
_ANSWER_S = 1800.0


class Peer:
    """A folder with llama.cpp's programs.

    Raises:
        SystemExit: there is no server in it, or it does not start.
    """

    def __init__(self, folder: Path) -> None:
        self.binary = folder / SERVER
        if not self.binary.is_file():
            raise SystemExit(f"{folder}: expected llama.cpp's {SERVER} in it. Name the folder with its programs.")
        self.able = Abilities.parse(self._ask("--help"))
        found = self._ask("--version").splitlines()
        self.version = next((line for line in found if line.startswith("version")), found[0] if found else "unknown")

    def _ask(self, flag: str) -> str:
        done = subprocess.run([self.binary, flag], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def measure(self, gguf: Path, mode: Mode, regime: str, tokens: Tokens, group: MemoryGroup) -> dict[str, Any]:
        """Start the server, run a cell's requests, stop it; return what was measured.

        Raises:
            PeerError: it was killed, does not start, or answers something else.
        """
        port = _free_port()
        argv = command(self.binary, gguf, mode, self.able, regime=regime, port=port)
        with tempfile.TemporaryFile() as log, _running(group.command(argv), log) as process:
            started = time.monotonic()
            try:
                _wait_until_ready(process, port)
                load_ms = 1000 * (time.monotonic() - started)
                for ids in tokens.fill:
                    _ask(port, ids, 1, tokens.seed, process.pid)
                steps = 1 + WARM_STEPS + MEASURED_STEPS
                cold, measured = _ask(port, tokens.first, steps, tokens.seed, process.pid)
                steady, _ = _ask(port, tokens.second, 1, tokens.seed, process.pid)
            except (OSError, http.client.HTTPException, PeerError) as err:
                raise PeerError(_why(err, process, group, log)) from err
        return {"load_ms": round(load_ms, 1), "prefill_cold": cold, "decode": measured, "prefill": steady}


def _ask(
    port: int, ids: list[int], num_tokens: int, seed: int, pid: int
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_S)
    try:
        before = read_by(pid)
        body = json.dumps(request_body(ids, num_tokens, seed))
        connection.request("POST", "/completion", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise PeerError(f"status {answer.status}: {answer.read(500)!r}")
        return stages(events(iter(answer.readline, b"")), len(ids), lambda: read_by(pid), before)
    finally:
        connection.close()


@contextmanager
def _running(argv: list[str], log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A process; the shell that enters the cgroup becomes it, so its pid is the server's."""
    process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise PeerError(f"ended while loading (code {process.returncode})")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            is_ready = connection.getresponse().status == 200
            connection.close()
        except OSError:
            is_ready = False
        if is_ready:
            return
        time.sleep(0.05)
    raise PeerError(f"not ready within {_START_S:g} s")


def _why(err: Exception, process: subprocess.Popen[bytes], group: MemoryGroup, log: IO[bytes]) -> str:
    """Say in one line why a cell failed: the kernel's reason first, then what the process wrote last."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(2)
    if group.oom_kills:
        return "does not fit: killed for exceeding the cap"
    log.seek(0)
    last = log.read()[-300:].decode(errors="replace").strip().splitlines()[-1:]
    return f"{err}; last output: {' '.join(last)}"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
