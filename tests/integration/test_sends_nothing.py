"""Nothing of ours talks to the network unasked, and nothing is written outside the folders we name.

ONNX Runtime reports to its vendor unless told not to; a library preloaded into the process notes every socket, every
name looked up and every file opened for writing, native code's included.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MODEL
from service_process import ServiceProcess

SOURCE = Path(__file__).parents[1] / "tracing" / "trace.c"
COMPILER = shutil.which("cc") or shutil.which("gcc")


@pytest.fixture(scope="module")
def tracer(tmp_path_factory) -> Path:
    assert COMPILER, "a C compiler builds this project; it must be here"
    library = tmp_path_factory.mktemp("tracing") / "trace.so"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    return library


class Traced:
    """A traced process with a home folder of its own, and what it did."""

    def __init__(self, tracer: Path, folder: Path) -> None:
        self.home, self._log = folder / "home", folder / "trace.log"
        self.home.mkdir()
        self._log.touch()
        self.env = {
            "LD_PRELOAD": str(tracer), "TRACE_LOG": str(self._log), "HOME": str(self.home),
            "PYTHONDONTWRITEBYTECODE": "1", "XDG_STATE_HOME": "", "STATE_DIRECTORY": "",
        }  # fmt: skip

    def lines(self, *kinds: str) -> list[str]:
        return [line for line in self._log.read_text().splitlines() if line.split(" ", 1)[0] in kinds]

    def written_elsewhere(self, *ours: Path) -> list[str]:
        """What was opened for writing outside the state folder, the folders given, and devices."""
        allowed = [str(self.home / ".local"), "/dev/", "/proc/", *map(str, ours)]
        paths = [line.split(" ", 1)[1] for line in self.lines("write")]
        return [path for path in paths if not path.startswith(tuple(allowed))]


@pytest.fixture
def traced(tracer, tmp_path) -> Traced:
    return Traced(tracer, tmp_path)


def run(traced: Traced, *command: str) -> None:
    done = subprocess.run(command, env=os.environ | traced.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_tracer_sees_what_it_is_there_for(traced):
    code = "import socket; s = socket.socket(); socket.getaddrinfo('localhost', 1); open('here', 'w')"
    subprocess.run([sys.executable, "-c", code], env=os.environ | traced.env, cwd=traced.home, check=True)
    assert traced.lines("socket")
    assert traced.lines("lookup") == ["lookup localhost"]
    assert traced.written_elsewhere() == [str(traced.home / "here")]


@pytest.mark.parametrize("verb", [["run", "--prompt", "Once", "-n", "3"], ["plan"], ["verify"]], ids=lambda v: v[0])
def test_a_command_opens_no_socket_and_writes_only_state(traced, model_bundle, verb):
    name, *rest = verb
    run(traced, sys.executable, "-m", "edge_runtime", name, str(model_bundle), "--memory", "1GiB", *rest)
    assert traced.lines("socket", "connect", "lookup") == []
    assert traced.written_elsewhere() == []


def test_an_export_opens_no_socket_and_writes_only_the_bundle(traced, tmp_path):
    out = tmp_path / "bundle"
    run(
        traced, sys.executable, "-m", "hobbit_export", str(MODEL), "--out", str(out), "--tiers", "2", "--trunk", "int8"
    )  # fmt: skip
    assert traced.lines("socket", "connect", "lookup") == []
    assert traced.written_elsewhere(tmp_path) == []


def test_a_service_connects_to_nobody(traced, model_bundle, tmp_path):
    with ServiceProcess(model_bundle, tmp_path / "log", "--memory", "1GiB", env=traced.env) as service:
        with service.client() as client:
            body = {"model": service.model, "prompt": "Once", "max_tokens": 3}
            assert client.post("/v1/completions", json=body).status_code == 200
        service.wait_until_idle()
    assert set(traced.lines("connect", "lookup")) <= {"lookup 127.0.0.1"}  # the address it listens on
    assert traced.written_elsewhere() == []
