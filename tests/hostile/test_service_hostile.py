"""Clients that mean harm or are broken: no 500, no leak, no stuck slot, and the service goes on serving."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from patience import PATIENCE_S, until
from service_process import ServiceProcess

GENTLE = {"max_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def running(model_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    log = tmp_path_factory.mktemp("hostile") / "log"
    flags = ("--parallel", "2", "--context", "256", "--max-waiting", "4", "--body-limit", "64KiB")
    with ServiceProcess(model_bundle, log, *flags) as service:
        yield service
        text = log.read_text()
        assert "Traceback" not in text, text[-4000:]


@pytest.fixture
def service(running: ServiceProcess) -> Iterator[ServiceProcess]:
    """After every attack: nothing is stuck, no descriptor leaked, and an honest request is served."""
    running.wait_until_idle()
    running.chat()
    fds = running.fds()
    yield running
    running.wait_until_idle()
    assert running.chat()["usage"]["completion_tokens"] == 8
    until(lambda: running.fds() <= fds, "descriptors are closed")


def connect(service: ServiceProcess) -> socket.socket:
    return socket.create_connection(service.address, timeout=PATIENCE_S)


def read_all(sock: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(OSError):
        while part := sock.recv(65536):
            data += part
    return data


def raw(service: ServiceProcess, data: bytes) -> bytes:
    """Send bytes, close the sending side, return whatever comes."""
    with connect(service) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


def request(body: bytes, *, length: int | None = None, headers: bytes = b"") -> bytes:
    size = len(body) if length is None else length
    return (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        + headers + b"Content-Length: %d\r\n\r\n" % size + body
    )  # fmt: skip


def post(service: ServiceProcess, body: Any, path: str = "/v1/completions") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with service.client() as client:
        return client.post(path, content=content, headers={"Content-Type": "application/json"})


def refused(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_binary_garbage(service: ServiceProcess) -> None:
    for size in (1, 100, 10_000, 1_000_000):
        answer = raw(service, os.urandom(size))
        assert not answer.startswith(b"HTTP/1.1 5")
    assert raw(service, b"\x16\x03\x01\x02\x00\x01\x00" + os.urandom(200)).startswith((b"HTTP/1.1 400", b""))


def test_ten_megabytes_of_headers(service: ServiceProcess) -> None:
    before = service.rss()
    one_line = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 10_000_000 + b"\r\n\r\n"
    many = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + b"X-Many: b\r\n" * 1_000_000 + b"\r\n"
    for data in (one_line, many):
        answer = raw(service, data)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert service.rss() - before < 32 << 20


def test_bodies_too_large_or_not_what_they_say(service: ServiceProcess) -> None:
    assert refused(post(service, b" " * 70_000), 413)["code"] == "request_too_large"
    assert b" 413 " in raw(service, request(b"{}", length=10**12))
    assert b" 500 " not in raw(service, request(b"{}", length=10**30))
    assert b" 500 " not in raw(service, request(b"{}", length=50))  # shorter than promised
    chunked = request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    with connect(service) as sock, contextlib.suppress(OSError):
        sock.sendall(chunked)
        for _ in range(100):
            sock.sendall(b"1000\r\n" + b" " * 4096 + b"\r\n")
        assert b" 413 " in sock.recv(1000)


def test_invalid_utf8_and_json(service: ServiceProcess) -> None:
    for body in (
        b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"model":"\xc3\x28"}', b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b"[" * 60_000, b'{"model":NaN}', b'{"model":1e999}', b'{"prompt":"\\ud800"}', b"1" * 60_000,
    ):  # fmt: skip
        assert refused(post(service, body))["type"] == "invalid_request_error"


@pytest.mark.parametrize("field", ["max_tokens", "temperature", "top_p", "top_k", "seed", "logprobs", "n", "min_p"])
def test_huge_and_odd_numbers(service: ServiceProcess, field: str) -> None:
    odd = [10**400, -(10**400), 2**63, 2**64, -1, 1e308, 0.5, True, "1", [], {}, "NaN", 1e-320]
    for value in odd:
        response = post(service, {"model": service.model, "prompt": "Hi", **GENTLE, field: value})
        assert response.status_code in (200, 400), (value, response.text)
        if response.status_code == 400:
            assert refused(response)["param"] in (field, "prompt"), response.text
    raw_number = b'{"model":"%s","prompt":"Hi","%s":1e999}' % (service.model.encode(), field.encode())
    assert refused(post(service, raw_number))["param"] == field


def test_odd_texts(service: ServiceProcess) -> None:
    for prompt in ("\x00", "\ud7ff\U0010ffff", "‮" * 50, "<|im_end|>" * 20, "%s%n{{7*7}}", "\x1b[2J"):
        response = post(service, {"model": service.model, "prompt": prompt, **GENTLE})
        assert response.status_code == 200, response.text
    lone = b'{"model":"%s","prompt":"\\ud800 alone","max_tokens":4}' % service.model.encode()
    refused(post(service, lone))
    chat = {"model": service.model, "messages": [{"role": "user", "content": "{% raise %}{{ self }}"}], **GENTLE}
    assert post(service, chat, "/v1/chat/completions").status_code == 200


@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "regex", "pattern": "["},
        {"type": "regex", "pattern": "(?=look)ahead"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "http://127.0.0.1:1/x"}}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#/nowhere"}}},
        {"type": "xml"},
    ],
)
def test_impossible_formats(service: ServiceProcess, wanted: dict[str, Any]) -> None:
    response = post(service, {"model": service.model, "prompt": "Hi", **GENTLE, "response_format": wanted})
    assert refused(response)["param"].startswith("response_format")


def test_recursive_empty_and_explosive_formats_are_served(service: ServiceProcess) -> None:
    tree = {"$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"}
    schemas = [{"type": "json_schema", "json_schema": {"name": "x", "schema": schema}} for schema in (tree, {})]
    for wanted in (*schemas, {"type": "regex", "pattern": "((a{1,1000}){1,1000}){1,1000}"}):
        response = post(service, {"model": service.model, "prompt": "Hi", **GENTLE, "response_format": wanted})
        assert response.status_code == 200, response.text


def test_paths_methods_and_hosts(service: ServiceProcess) -> None:
    with service.client() as client:
        for path in ("/v1/nothing", "/../../etc/passwd", "/v1/models/%00", "/v1/models/" + "x" * 5000, "/%ff"):
            assert client.get(path).status_code in (404, 400)
        assert refused(client.put("/v1/completions"), 405)["code"] == "method_not_allowed"
        assert refused(client.post("/v1/completions", content=b"{}"), 415)["code"] == "unsupported_media_type"
        rebinding = client.get("/v1/models", headers={"Host": "evil.example"})
        assert refused(rebinding, 403)["code"] == "host_not_allowed"


def test_half_closed_connections(service: ServiceProcess) -> None:
    body = json.dumps({"model": service.model, "prompt": "Hi", "max_tokens": 200, "ignore_eos": True}).encode()
    for cut in (5, 60, len(request(body)) - 10, None):
        raw(service, request(body)[:cut])


def test_two_hundred_disconnects_at_once(service: ServiceProcess) -> None:
    body = json.dumps({"model": service.model, "prompt": "Hi", "max_tokens": 200, "stream": True, "ignore_eos": True})
    go = threading.Barrier(50)

    def attack(number: int) -> None:
        go.wait(PATIENCE_S)
        for _ in range(4):
            with contextlib.suppress(OSError), connect(service) as sock:
                sock.sendall(request(body.encode()))
                if number % 3:
                    sock.settimeout(0.05 * (number % 7))
                    with contextlib.suppress(TimeoutError):
                        sock.recv(100)
                if number % 2:  # reset instead of a polite end
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(attack, range(50)))
    service.wait_until_idle()


def test_slowloris(service: ServiceProcess) -> None:
    socks = [connect(service) for _ in range(60)]
    try:
        for sock in socks:
            sock.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n")

        def is_cut_off() -> bool:
            service.chat(**GENTLE)  # others are served meanwhile
            try:
                for sock in socks:
                    sock.sendall(b"X-A: b\r\n")
            except OSError:
                return True
            return False

        until(is_cut_off, "trickling headers are cut off", pause_s=1)
    finally:
        for sock in socks:
            sock.close()


def test_a_client_that_does_not_read(service: ServiceProcess) -> None:
    body = json.dumps({"model": service.model, "prompt": "Hi", "max_tokens": 200, "stream": True, "ignore_eos": True})
    before = service.stats()["requests"]["finished"]["length"]
    with connect(service) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        sock.sendall(request(body.encode()))
        finished = lambda: service.stats()["requests"]["finished"]["length"] == before + 1  # noqa: E731
        until(finished, "its slot runs on; had it waited for the client, the request would end cancelled")


def test_pipelined_and_smuggled_requests(service: ServiceProcess) -> None:
    get = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(service) as sock:
        sock.sendall(get * 50)
        answers = b""
        while answers.count(b"200 OK") < 50:
            more = sock.recv(65536)
            assert more, answers
            answers += more
    both = request(b"0\r\n\r\nGET /evil HTTP/1.1\r\n\r\n", headers=b"Transfer-Encoding: chunked\r\n")
    assert b" 500 " not in raw(service, both)
