"""A machine with the service installed by deploy/install.sh, as an owner would, and a client for it."""

from __future__ import annotations

import json
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import REPO
from machine import Machine, booted

UNIT = "hobbit.service"
ENV = "/etc/hobbit-edge/hobbit.env"


class Installed:
    """The service on a machine.

    Attributes:
        machine: where it is.
        port: where it listens.
    """

    def __init__(self, machine: Machine, bundle: Path) -> None:
        self.machine, self.port = machine, _free_port()
        self._let_user_in(bundle)
        machine.shell(f"mkdir -p /var/lib/hobbit-edge && cp -r {bundle} /var/lib/hobbit-edge/bundle")

    def _let_user_in(self, *paths: Path) -> None:
        """Python and this checkout may lie under /root or /tmp: show them to the service, on this machine only."""
        for path in {Path(sys.prefix), Path(sys.base_prefix), REPO, *paths}:
            for folder in (path, *path.parents):
                self.machine.run("chmod", "o+rx", str(folder), check=False)
        self.drop_in("20-test.conf", "ProtectHome=no", "PrivateTmp=no", "RestartSec=500ms", "TimeoutStartSec=120")

    def install(self, *flags: str, check: bool = True) -> str:
        """Run install.sh with this test's Python environment; return what it said."""
        command = [str(REPO / "deploy/install.sh"), "--venv", sys.prefix, "--memory", "512MiB", *flags]
        done = self.machine.run(*command, check=check)
        self.chown()
        return done.stdout + done.stderr

    def chown(self) -> None:
        """The bundle was copied before the user existed."""
        self.machine.run("chown", "-R", "hobbit:hobbit", "/var/lib/hobbit-edge")

    def settings(self, **values: object) -> None:
        """Replace the settings file, as an editor would."""
        text = {"HOBBIT_PORT": self.port, "HOBBIT_CONTEXT": 512, "HOBBIT_TIER": 8, "HOBBIT_THREADS": 1, **values}
        lines = "\n".join(f"{name}={value}" for name, value in text.items())
        self.machine.shell(f"cat > {ENV} <<'END'\n{lines}\nEND\nchgrp hobbit {ENV}; chmod 640 {ENV}")

    def drop_in(self, name: str, *lines: str, section: str = "Service", unit: str = UNIT) -> None:
        """Write a drop-in."""
        folder = f"/etc/systemd/system/{unit}.d"
        text = "\n".join([f"[{section}]", *lines])
        self.machine.shell(f"mkdir -p {folder}; cat > {folder}/{name} <<'END'\n{text}\nEND\nsystemctl daemon-reload")

    def systemctl(self, verb: str, *args: str, check: bool = True) -> str:
        """Run systemctl on the service."""
        done = self.machine.run("systemctl", verb, *args, UNIT, check=False)
        assert not check or done.returncode == 0, f"{verb}: {done.stderr}{self.machine.journal('hobbit')[-2000:]}"
        return done.stdout

    def show(self, name: str) -> str:
        """Return one property of the service."""
        return self.machine.show(UNIT, name)

    def get(self, path: str, body: dict[str, Any] | None = None, timeout_s: float = 60.0) -> Any:
        """GET, or POST a JSON body."""
        with self.open(path, body, timeout_s) as answer:
            return json.loads(answer.read())

    def open(self, path: str, body: dict[str, Any] | None = None, timeout_s: float = 60.0) -> Any:
        """Open a request; the network is this machine's, so no detour is needed."""
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        return urllib.request.urlopen(request, timeout=timeout_s)

    def complete(self, prompt: str = "import", max_tokens: int = 8) -> dict[str, Any]:
        """Run a greedy completion."""
        return dict(self.get("/v1/completions", self.body(prompt, max_tokens)))

    def body(self, prompt: str, max_tokens: int, **more: Any) -> dict[str, Any]:
        """A request that runs to its last token."""
        return {"model": "bundle", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, **more}

    def is_ready(self) -> bool:
        """Whether it takes requests now."""
        try:
            return self.get("/health/ready", timeout_s=2) == {"status": "ready"}
        except OSError:
            return False


@contextmanager
def installed(bundle: Path) -> Iterator[Installed]:
    """Boot a machine with the service installed and its settings written, not started."""
    with booted(shown=[bundle]) as machine:
        found = Installed(machine, bundle)
        found.install("--no-start")
        found.settings()
        yield found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
