"""A started service for tests: the real command in a process of its own, on a free port of loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

START_S = 60.0


class ServiceProcess:
    """`hobbit serve` as a user starts it. Use as a context manager."""

    def __init__(
        self, bundle: Path, log: Path, *flags: str, wait: bool = True, env: dict[str, str] | None = None
    ) -> None:
        self.log, self.model = log, bundle.name
        command = [sys.executable, "-m", "edge_runtime", "serve", str(bundle), *flags]
        if "--port" not in flags and "--socket" not in flags:
            command += ["--port", "0"]
        self._file = open(log, "wb")  # noqa: SIM115 - closed by stop
        self.process = subprocess.Popen(
            command, stdout=self._file, stderr=self._file, env={**os.environ, **(env or {})}
        )
        self.socket = flags[flags.index("--socket") + 1] if "--socket" in flags else None
        address = self._wait_for_address()
        self.base = "http://localhost" if self.socket else address
        if wait:
            self.wait_until_ready()

    @property
    def api(self) -> str:
        """Base URL of the OpenAI API."""
        return f"{self.base}/v1"

    @property
    def address(self) -> tuple[str, int]:
        """For raw sockets."""
        host, port = self.base.removeprefix("http://").rsplit(":", 1)
        return host, int(port)

    def client(self, **more: Any) -> httpx.Client:
        """An HTTP client of this service."""
        transport = httpx.HTTPTransport(uds=self.socket) if self.socket else None
        return httpx.Client(base_url=self.base, transport=transport, timeout=60, trust_env=False, **more)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        with self.client() as client:
            while time.monotonic() < deadline:
                assert self.process.poll() is None, self.log.read_text()[-3000:]
                try:
                    if client.get("/health/ready").status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.05)
        raise AssertionError(f"not ready: {self.log.read_text()[-3000:]}")

    def stats(self) -> dict[str, Any]:
        with self.client() as client:
            found: dict[str, Any] = client.get("/v1/stats").json()
            return found

    def wait_until_idle(self, timeout_s: float = 30.0) -> None:
        """Wait until nothing runs and nothing waits."""
        deadline = time.monotonic() + timeout_s
        while True:
            requests = self.stats()["requests"]
            if requests["running"] == 0 and requests["waiting"] == 0:
                return
            assert time.monotonic() < deadline, f"a slot is stuck: {json.dumps(requests)}"
            time.sleep(0.05)

    def chat(self, content: str = "Once upon a time", **more: Any) -> dict[str, Any]:
        """A greedy chat request; returns the answer."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": 8,
        }
        with self.client() as client:
            response = client.post("/v1/chat/completions", json={**body, **more})
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    def rss(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def fds(self) -> int:
        return int(psutil.Process(self.process.pid).num_fds())

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 60.0) -> int:
        """Signal the process and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"does not stop: {self.log.read_text()[-3000:]}") from None
        finally:
            self._file.close()

    def __enter__(self) -> ServiceProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)

    def _wait_for_address(self) -> str:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            text = self.log.read_text()
            found = re.search(r"listening on (\S+)", text)
            if found:
                return found[1]
            assert self.process.poll() is None, text[-3000:]
            time.sleep(0.02)
        raise AssertionError(f"no address: {self.log.read_text()[-3000:]}")
