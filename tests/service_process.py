"""A started service for tests: the real command in a process of its own, on a free port of loopback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
from patience import PATIENCE_S, until

if TYPE_CHECKING:
    import openai


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
        return httpx.Client(base_url=self.base, transport=transport, timeout=PATIENCE_S, trust_env=False, **more)

    def wait_until_ready(self) -> None:
        with self.client() as client:

            def is_ready() -> bool:
                assert self.process.poll() is None, self.log.read_text()[-3000:]
                with suppress(httpx.TransportError):
                    return client.get("/health/ready").status_code == 200
                return False

            until(is_ready, "the service is ready", pause_s=0.05)

    def stats(self) -> dict[str, Any]:
        with self.client() as client:
            found: dict[str, Any] = client.get("/v1/stats").json()
            return found

    def wait_until_idle(self) -> None:
        """Wait until nothing runs and nothing waits."""

        def is_idle() -> bool:
            requests = self.stats()["requests"]
            return bool(requests["running"] == 0 and requests["waiting"] == 0)

        until(is_idle, "no slot is stuck", pause_s=0.05)

    @contextmanager
    def openai_client(self) -> Iterator[openai.OpenAI]:
        """A client of OpenAI's library; at the end nothing of it is left running."""
        import openai

        with openai.OpenAI(base_url=self.api, api_key="unused", max_retries=0) as made:
            yield made
        self.wait_until_idle()

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

    def cpu_s(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def fds(self) -> int:
        return int(psutil.Process(self.process.pid).num_fds())

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = PATIENCE_S) -> int:
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
        def address() -> str:
            text = self.log.read_text()
            found = re.search(r"listening on (\S+)", text)
            assert found or self.process.poll() is None, text[-3000:]
            return found[1] if found else ""

        return until(address, "the service listens", pause_s=0.02)
