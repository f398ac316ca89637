"""Run an image as compose.yaml says: its own command, user and health check; then ask it for tokens.

usage: python run.py IMAGE MODELS BUILDAH_OPTIONS...

Instead of a container engine, which needs cgroups, buildah's own `run` in a chroot: as the image's user, without
capabilities, the models mounted read-only, the network that of this machine's loopback.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import Any

PORT = "8097"
REQUEST = (
    "import json, os, urllib.request as u; b = {'model': 'bundle', 'prompt': 'import os', 'max_tokens': 8, 'temperature': 0}; "
    "r = u.Request('http://127.0.0.1:' + os.environ['HOBBIT_PORT'] + '/v1/completions', json.dumps(b).encode(), "
    "{'Content-Type': 'application/json'}); print(json.load(u.urlopen(r, timeout=240))['choices'][0]['text'])"
)


class Image:
    """The image, and a container of it that commands run in."""

    def __init__(self, name: str, models: str, options: list[str]) -> None:
        self._buildah = ["buildah", *options]
        self._models = models
        self.config: dict[str, Any] = json.loads(self.said("inspect", "--type", "image", name))["Docker"]["config"]
        self._container = self.said("from", "--pull-never", name).strip()

    def said(self, *words: str) -> str:
        """Run buildah and return what it said."""
        return subprocess.run([*self._buildah, *words], check=True, stdout=subprocess.PIPE, text=True).stdout

    def command(self, *words: str) -> list[str]:
        """What runs a command inside, as the image's user."""
        flags = [
            "--cap-drop",
            "all",
            "--env",
            f"HOBBIT_PORT={PORT}",
            "--env",
            "HOBBIT_MEMORY=400MiB",
            "--env",
            "HOBBIT_CONTEXT=128",
        ]
        mount = ["--volume", f"{self._models}:/models:ro", "--user", self.config["User"], "--network", "host"]
        return [*self._buildah, "run", *flags, *mount, self._container, "--", *words]

    def healthy(self) -> bool:
        """Whether the image's own health check passes."""
        kind, *words = self.config["Healthcheck"]["Test"]
        assert kind == "CMD", kind
        return subprocess.run(self.command(*words), capture_output=True, check=False).returncode == 0


def main() -> None:
    """Start the service, wait until it is healthy, ask it, stop it."""
    image = Image(sys.argv[1], sys.argv[2], sys.argv[3:])
    assert image.config["User"] == "10001:10001", image.config["User"]
    who = subprocess.run(
        image.command("python", "-c", "import os; print(os.getuid())"), check=True, capture_output=True, text=True
    )
    assert who.stdout.strip() == "10001"
    assert subprocess.run(image.command("bash", "-c", "touch /models/x"), capture_output=True, check=False).returncode
    assert not image.healthy(), "it is not healthy before it serves"
    service = subprocess.Popen(image.command(*image.config["Entrypoint"], *image.config["Cmd"]), stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 900
        while not image.healthy():
            assert service.poll() is None, "the service ended"
            assert time.monotonic() < deadline, "never healthy"
            time.sleep(1)
        print("  healthy, by the image's own check")
        answer = subprocess.run(
            image.command("python", "-c", REQUEST), check=True, capture_output=True, text=True
        ).stdout
        assert answer.strip()
        print(f"  answers: {answer.strip()!r}")
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(120)


if __name__ == "__main__":
    main()
