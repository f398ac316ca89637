"""Runs the peer's server as a process in a cgroup and puts a cell's requests to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from benchmarks.compare.builds import build_of
from benchmarks.compare.group import MemoryGroup
from benchmarks.compare.machine import read_by
from benchmarks.compare.peer import (
    SERVER,
    Abilities,
    PeerError,
    checked,
    command,
    decode_stage,
    less,
    prompt_stage,
    request_body,
)
from benchmarks.compare.workload import MEASURED_STEPS, WARM_STEPS, Mode, Model, PeerMode, Tokens, modes_for

_START_S = 600.0
_ANSWER_S = 1800.0


class LlamaCpp:
    """A folder with llama.cpp's programs.

    Raises:
        SystemExit: there is no server in it, or it does not start.
    """

    name = "llama.cpp"

    def __init__(self, folder: Path) -> None:
        self.binary = folder / SERVER
        if not self.binary.is_file():
            raise SystemExit(f"{folder}: expected llama.cpp's {SERVER} in it. Name the folder with its programs.")
        self.build = build_of(self.binary)
        self.able = Abilities.parse(self._ask("--help"))
        found = self._ask("--version").splitlines()
        self.version = next((line for line in found if line.startswith("version")), found[0] if found else "unknown")

    def _ask(self, flag: str) -> str:
        done = subprocess.run([self.binary, flag], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def modes(self, regime: str) -> Sequence[PeerMode]:
        """See `Peer.modes`."""
        return modes_for(regime, self.able.loads)

    def measure(
        self, model: Model, mode: PeerMode, regime: str, tokens: Tokens, group: MemoryGroup
    ) -> Mapping[str, Any]:
        """See `Peer.measure`: start the server, run a cell's requests, stop it."""
        assert isinstance(mode, Mode)
        port = _free_port()
        argv = command(self.binary, model.gguf, mode, self.able, regime=regime, port=port)
        with tempfile.TemporaryFile() as log, _running(group.command(argv), log) as process:
            started = time.monotonic()
            try:
                _wait_until_ready(process, port)
                load_ms = 1000 * (time.monotonic() - started)
                found = _requests(_Client(port, process.pid), tokens)
            except (OSError, ValueError, LookupError, http.client.HTTPException, PeerError) as err:
                raise PeerError(_why(err, process, group, log)) from err
        return {"load_ms": round(load_ms, 1), **found}


class _Client:
    """Puts requests to one server and counts what it read meanwhile."""

    def __init__(self, port: int, pid: int) -> None:
        self._port, self._pid = port, pid

    def ask(
        self, ids: list[int], num_tokens: int, seed: int, *, go_on: bool = False
    ) -> tuple[dict[str, Any], list[int], int | None]:
        """Return timings, generated tokens and bytes read."""
        body = request_body(ids, num_tokens, seed, go_on=go_on)
        before = read_by(self._pid)
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER_S)
        try:
            connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        read = less(read_by(self._pid), before)
        timings = checked(answer, prompt_n=1 if go_on else len(ids), predicted_n=num_tokens)
        return timings, [int(token) for token in answer["tokens"]], read


def _requests(client: _Client, tokens: Tokens) -> dict[str, Any]:
    """Run a cell's requests: fill, a cold prompt with warm-up steps, the measured steps after them, another prompt."""
    for ids in tokens.fill:
        client.ask(ids, 1, tokens.seed)
    cold, warm, _ = client.ask(tokens.first, WARM_STEPS, tokens.seed)
    measured, _, read = client.ask(tokens.first + warm, 1 + MEASURED_STEPS, tokens.seed + 1000, go_on=True)
    steady, _, steady_read = client.ask(tokens.second, 1, tokens.seed)
    return {
        "prefill_cold": prompt_stage(cold),
        "decode": decode_stage(measured, read),
        "prefill": prompt_stage(steady, steady_read),
    }


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
