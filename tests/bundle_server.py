"""An HTTP server on this machine that serves a folder, takes PUT, and goes wrong in every way a test asks for."""

from __future__ import annotations

import re
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Answer:
    """What a request gets; a fault changes it."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut: int | None = None


Fault = Callable[[Answer], None]


def status(code: int, **headers: str) -> Fault:
    """Answer a status alone."""

    def change(answer: Answer) -> None:
        answer.status, answer.body = code, b""
        answer.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    return change


def cut(count: int) -> Fault:
    """Send only so many bytes of the body, and close."""

    def change(answer: Answer) -> None:
        answer.cut = count

    return change


def flip(at: int = 0) -> Fault:
    """Send one wrong byte."""

    def change(answer: Answer) -> None:
        if len(answer.body) > at:
            answer.body = answer.body[:at] + bytes([answer.body[at] ^ 1]) + answer.body[at + 1 :]

    return change


def header(name: str, value: str) -> Fault:
    """Send a header in place of the true one."""

    def change(answer: Answer) -> None:
        answer.headers[name] = value

    return change


def chunked(answer: Answer) -> None:
    """Send the body in chunks, its length unsaid, as servers do that make it while they send."""
    del answer.headers["Content-Length"]
    answer.headers["Transfer-Encoding"] = "chunked"
    parts = [answer.body[at : at + 1000] for at in range(0, len(answer.body), 1000)]
    answer.body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def endless(answer: Answer) -> None:
    """Send more than was asked for, its length unsaid."""
    answer.body += bytes(5000)
    chunked(answer)


def silent(seconds: float) -> Fault:
    """Answer nothing for a while."""
    return lambda answer: time.sleep(seconds)


@dataclass
class Behaviour:
    """How a server behaves.

    Attributes:
        faults: of the next requests for a name (or any: ""); then all is well.
        always: of every request for a name.
        ranges: it knows them.
        pause_s: before every 64 KiB.
        needs: value of Authorization without which it answers 401.
        redirects_to: another server, to which it sends every GET.
        methods: it takes.
    """

    faults: dict[str, deque[Fault]] = field(default_factory=dict)
    always: dict[str, Fault] = field(default_factory=dict)
    ranges: bool = True
    pause_s: float = 0.0
    needs: str | None = None
    redirects_to: str | None = None
    methods: tuple[str, ...] = ("GET", "HEAD", "PUT", "DELETE")


class BundleServer:
    """Serves `folder`; counts what was asked for and sent."""

    def __init__(self, folder: Path, behaviour: Behaviour | None = None) -> None:
        self.folder, self.behaviour = folder, behaviour or Behaviour()
        self.sent: Counter[str] = Counter()
        self.requests: list[tuple[str, str, str]] = []
        self.tokens: list[str] = []
        self.lock = threading.Lock()
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def sent_bytes(self) -> int:
        return sum(self.sent.values())

    def fault(self, name: str) -> list[Fault]:
        with self.lock:
            waiting = self.behaviour.faults.get(name) or self.behaviour.faults.get("")
            found = [waiting.popleft()] if waiting else []
        return found + [f for key, f in self.behaviour.always.items() if key in (name, "")]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving(folder: Path, behaviour: Behaviour | None = None) -> Iterator[BundleServer]:
    server = BundleServer(folder, behaviour)
    try:
        yield server
    finally:
        server.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: BundleServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.owner = owner

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *args: Any) -> None:
        pass

    def begin(self) -> tuple[Path, str] | None:
        """Note the request; return its file and name, or None if it is answered already."""
        owner, name = self.server.owner, unquote(urlsplit(self.path).path).lstrip("/")
        with owner.lock:
            owner.requests.append((self.command, name, self.headers.get("Range", "")))
            owner.tokens.append(self.headers.get("Authorization", ""))
        if owner.behaviour.needs not in (None, self.headers.get("Authorization")):
            self.send(Answer(401, {}, b""), name)
        elif self.command not in owner.behaviour.methods:
            self.send(Answer(405, {}, b""), name)
        elif owner.behaviour.redirects_to and self.command in ("GET", "HEAD"):
            self.send(Answer(302, {"Location": f"{owner.behaviour.redirects_to}/{name}"}, b""), name)
        else:
            return owner.folder / name, name
        return None

    def do_GET(self) -> None:
        if (found := self.begin()) is None:
            return
        path, name = found
        if not path.is_file():
            self.send(Answer(404, {}, b"not here"), name)
            return
        whole = path.read_bytes()
        answer = Answer(200, {"Content-Length": str(len(whole)), "ETag": f'"{zlib.crc32(whole):08x}"'}, whole)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and self.server.owner.behaviour.ranges:
            first, last = int(asked[1]), min(int(asked[2] or len(whole) - 1), len(whole) - 1)
            if first >= len(whole):
                self.send(Answer(416, {"Content-Range": f"bytes */{len(whole)}"}, b""), name)
                return
            answer.status, answer.body = 206, whole[first : last + 1]
            answer.headers |= {"Content-Range": f"bytes {first}-{last}/{len(whole)}"}
            answer.headers["Content-Length"] = str(len(answer.body))
        for change in self.server.owner.fault(name):
            change(answer)
        self.send(answer, name)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        length = int(self.headers["Content-Length"])
        if self.headers.get("Expect") is None and (found := self.begin()) is not None:
            path, name = found
            changes = self.server.owner.fault(name)
            answer = Answer(201, {}, b"")
            for change in changes:
                change(answer)
            if answer.cut is not None:
                self.rfile.read(answer.cut)
                self.close_connection = True
                return
            data = self.rfile.read(length)
            if answer.status == 201:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            self.send(answer, name)

    def do_DELETE(self) -> None:
        if (found := self.begin()) is not None:
            path, name = found
            there = path.is_file()
            path.unlink(missing_ok=True)
            self.send(Answer(204 if there else 404, {}, b""), name)

    def send(self, answer: Answer, name: str) -> None:
        self.send_response(answer.status)
        if answer.status != 204 and "Transfer-Encoding" not in answer.headers:
            answer.headers.setdefault("Content-Length", str(len(answer.body)))
        for key, value in answer.headers.items():
            self.send_header(key, value)
        if answer.status in (401, 405):  # a body that was not read is in the way of the next request
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command == "HEAD":
            return
        body = answer.body if answer.cut is None else answer.body[: answer.cut]
        step = 64 << 10
        for at in range(0, len(body), step):
            time.sleep(self.server.owner.behaviour.pause_s)
            self.wfile.write(body[at : at + step])
            with self.server.owner.lock:
                self.server.owner.sent[name] += len(body[at : at + step])
        if answer.cut is not None or int(answer.headers.get("Content-Length", len(answer.body))) != len(answer.body):
            self.close_connection = True
