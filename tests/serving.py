"""`hobbit serve` started as its users do, on a free port."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from patience import PATIENCE_S


class Served:
    """A running service.

    Args:
        command: starts it with `--port 0`.
    """

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.url = self._wait_for_url()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            self.log.extend(iter(lines.readline, ""))

    def _wait_for_url(self) -> str:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self.process.poll() is None:
            found = re.search(r"listening on (http://\S+)", "".join(self.log))
            if found:
                return found[1]
            time.sleep(0.02)
        self.stop()
        raise AssertionError("the service did not listen:\n" + "".join(self.log))

    def wait_until_ready(self) -> None:
        """Return once it takes requests."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.get("/health/ready")
                return
            except urllib.error.URLError:
                time.sleep(0.05)
        raise AssertionError("the service did not get ready:\n" + "".join(self.log))

    def get(self, path: str, body: dict[str, Any] | None = None, key: str = "") -> str:
        """GET, or POST a JSON body; return the answer's text."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        request = urllib.request.Request(self.url + path, data, headers)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return str(answer.read().decode())

    def complete(self, prompt: str, *, max_tokens: int, model: str, key: str = "") -> str:
        """Return the text of a greedy completion."""
        body = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        return str(json.loads(self.get("/v1/completions", body, key))["choices"][0]["text"])

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = PATIENCE_S) -> int:
        """Stop it and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._reader.join()
        return code


@contextmanager
def served(bundle: Path, *flags: str, ready: bool = True) -> Iterator[Served]:
    """Serve a bundle; killed at the end if it still runs."""
    command = [sys.executable, "-m", "edge_runtime", "serve", str(bundle), "--port", "0", *flags]
    service = Served(command)
    try:
        if ready:
            service.wait_until_ready()
        yield service
    finally:
        service.stop()
