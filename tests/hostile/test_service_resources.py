"""What a service holds: descriptors, bodies of requests, its log. None of them is taken from the others for long."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from patience import PATIENCE_S, until
from service_process import ServiceProcess

FLAGS = ("--memory", "1GiB", "--context", "256", "--model-name", "m")


@pytest.fixture(scope="module")
def service(model_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with ServiceProcess(model_bundle, tmp_path_factory.mktemp("resources") / "log", *FLAGS) as found:
        yield found


def raw(service: ServiceProcess, data: bytes) -> bytes:
    with socket.create_connection(service.address, timeout=PATIENCE_S) as sock:
        sock.sendall(data)
        answer = b""
        with contextlib.suppress(OSError):
            while part := sock.recv(65536):
                answer += part
        return answer


def complete(service: ServiceProcess, **more: Any) -> httpx.Response:
    with service.client() as client:
        return client.post(
            "/v1/completions", json={"model": "m", "prompt": "x", "max_tokens": 2, "temperature": 0} | more
        )


POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
AMBIGUOUS = {
    "length first": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "encoding first": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "other case": b"tRANSFER-eNCODING: Chunked\r\ncONTENT-lENGTH: 0\r\n\r\n0\r\n\r\n",
    "with another request behind": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_two_lengths_are_refused_and_the_connection_closes(service, name):
    answer = raw(service, POST + AMBIGUOUS[name])  # returns once the other side has closed
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer.lower()
    assert b"ambiguous_length" in answer


@pytest.mark.parametrize(
    "extra", [b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", b"Transfer-Encoding: gzip\r\n\r\n"]
)
def test_lengths_that_contradict_are_refused(service, extra):
    answer = raw(service, POST + extra)
    assert answer == b"" or answer.split()[1][:1] == b"4" or answer.split()[1] == b"501", answer


@pytest.mark.parametrize(
    "body",
    [
        b'{"\\ud800": 1}', b'{"model": "m", "\\ud800abc": 1}', b'{"\xed\xa0\x80": 1}', b'{"\\udfff\\ud800": {"\\udc00": 1}}',
        b'{"model": "m", "prompt": "x", "user": {"\\ud800": 1}}', b'{"model": "\\ud800", "prompt": "x"}',
    ],
)  # fmt: skip
def test_lone_surrogates_are_refused_with_400(service, body):
    with service.client() as client:
        answer = client.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("value", ["[]", "{}", "0", '""'])
def test_a_body_of_a_million_values_is_refused(service, value):
    body = b'{"model": "m", "prompt": "x", "user": [' + b",".join([value.encode()] * 400_000) + b"]}"
    with service.client() as client:
        answer = client.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert "values" in answer.json()["error"]["message"]


def test_commas_of_a_long_text_are_no_values(service):
    answer = complete(service, prompt="," * 300_000)
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_slow_large_bodies_do_not_hold_up_short_ones(service):
    """Two hold the places for long bodies; short requests are served, a third long one is told to come back."""
    socks = [socket.create_connection(service.address, timeout=PATIENCE_S) for _ in range(2)]
    try:
        for sock in socks:
            sock.sendall(POST + b"Content-Length: 1000000\r\n\r\n" + b" " * 100_000)
        time.sleep(0.5)
        started = time.monotonic()
        assert complete(service).status_code == 200
        assert time.monotonic() - started < 60
        answer = complete(service, user="x" * 100_000)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "busy"
        assert answer.headers["Retry-After"] == "1"
    finally:
        for sock in socks:
            sock.close()
    until(lambda: complete(service, user="x" * 100_000).status_code == 200, "places are given back", pause_s=0.2)


def test_large_bodies_at_once_stay_within_what_the_plan_counts(service):
    peak = [0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            peak[0] = max(peak[0], service.rss())
            time.sleep(0.01)

    body = json.dumps({"model": "m", "prompt": "\U0001f600" + "word " * 400_000, "max_tokens": 1}, ensure_ascii=False)
    statuses = []

    def attack() -> None:
        with service.client() as client:
            for _ in range(3):
                answer = client.post(
                    "/v1/completions", content=body.encode(), headers={"Content-Type": "application/json"}
                )
                statuses.append(answer.status_code)

    attack()  # what a first request loads stays, and is no body's
    before = service.rss()
    watcher = threading.Thread(target=watch)
    attackers = [threading.Thread(target=attack) for _ in range(12)]
    watcher.start()
    for thread in attackers:
        thread.start()
    for thread in attackers:
        thread.join()
    stop.set()
    watcher.join()
    assert set(statuses) <= {400, 503}
    assert 400 in statuses
    grown = (peak[0] - before) / (1 << 20)
    assert grown < 24 + 16, "MiB that the plan has for bodies, and its headroom"


@pytest.mark.parametrize("limit", ["2MiB", "8MiB"])
def test_the_plan_of_a_service_counts_bodies(model_bundle, limit):
    environment = {**os.environ, "HOBBIT_BODY_LIMIT": limit}
    command = [sys.executable, "-m", "edge_runtime", "plan", str(model_bundle), "--memory", "1GiB", "--context", "128"]
    plans = []
    for flags in ([], ["--serve"]):
        # processes of their own: what libraries take is measured, and this one has loaded and freed many things
        said = subprocess.run([*command, "--json", *flags], env=environment, capture_output=True, check=True).stdout
        plans.append({line["name"]: line["bytes"] for line in json.loads(said)["lines"]})
    assert "request bodies" not in plans[0]
    assert plans[1]["request bodies"] == 12 * int(limit[0]) << 20
    more = plans[1]["runtime libraries"] - plans[0]["runtime libraries"]
    assert more > 64 << 20, "the process for templates and grammars"


def test_descriptors_that_run_out_make_it_wait_not_spin(model_bundle, tmp_path):
    """Idle connections beyond the limit are closed at once; where descriptors end all the same, accepting pauses."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ServiceProcess(model_bundle, tmp_path / "log", *FLAGS) as service:
        pid = service.process.pid
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (service.fds() + 5, before[1]))
        socks = [socket.create_connection(service.address, timeout=PATIENCE_S) for _ in range(60)]
        used, size = service.cpu_s(), (tmp_path / "log").stat().st_size
        time.sleep(3)
        assert service.cpu_s() - used < 1.5
        assert (tmp_path / "log").stat().st_size - size < 20_000
        assert "connections wait: Too many open files" in (tmp_path / "log").read_text()
        for sock in socks:
            sock.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        until(lambda: complete(service).status_code == 200, "it accepts again", pause_s=0.2)
        assert "Traceback" not in (tmp_path / "log").read_text()


def test_idle_connections_beyond_the_limit_are_closed(model_bundle, tmp_path):
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300));"
        "import runpy; sys.argv[0] = 'hobbit'; runpy.run_module('edge_runtime', run_name='__main__')"
    )
    command = [sys.executable, "-c", program, "serve", str(model_bundle), *FLAGS, "--port", "0"]
    log = tmp_path / "log"
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    socks: list[socket.socket] = []
    try:
        until(lambda: "warm after" in log.read_text() or process.poll() is not None, "it is ready")
        assert "leaves room for" in log.read_text(), log.read_text()
        host, port = log.read_text().split("listening on http://")[1].split()[0].rsplit(":", 1)
        for _ in range(280):
            with contextlib.suppress(OSError):
                socks.append(socket.create_connection((host, int(port)), timeout=PATIENCE_S))
        time.sleep(1)
        assert len(os.listdir(f"/proc/{process.pid}/fd")) < 290
        for sock in socks[:200]:
            sock.close()
        with httpx.Client(base_url=f"http://{host}:{port}", trust_env=False, timeout=PATIENCE_S) as client:
            until(lambda: client.get("/health").status_code == 200, "it serves", pause_s=0.2)
        assert "Traceback" not in log.read_text()
    finally:
        for sock in socks:
            sock.close()
        process.kill()
        process.wait()


def test_a_log_nobody_reads_does_not_stop_the_service(model_bundle, tmp_path):
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    port = free_port()
    command = [sys.executable, "-m", "edge_runtime", "serve", str(model_bundle), *FLAGS, "--port", str(port), "-v"]
    process = subprocess.Popen(command, stdout=writer, stderr=writer)
    os.close(writer)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE_S) as client:

            def is_ready() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return client.get("/health/ready").status_code == 200
                return False

            until(is_ready, "it is ready", pause_s=0.1)
            body = {"model": "m", "prompt": "x", "max_tokens": 1}
            for _ in range(1200):
                assert client.post("/v1/completions", json=body | {"temperature": "hot"}).status_code == 400
            assert client.post("/v1/completions", json=body).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reader)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
