"""A hub on this machine: its API, redirects to a store on another port with addresses that expire, and faults.

What it answers is what huggingface.co does, as far as huggingface_hub and the exporter ask.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "a" * 40
LARGE = (".safetensors", "tokenizer.json", ".gguf")


@dataclass
class Fault:
    """What the next request to a place gets in place of its answer.

    Attributes:
        status: answered alone; 0: the answer comes, but only `cut` bytes of its body.
        headers: of that answer, or in place of the true ones.
    """

    status: int = 0
    cut: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


class FakeHub:
    """Serves a folder as `repo`. `faults` holds what goes wrong next at "api", "resolve" and "store".

    `lies`: file -> a byte of it that the store sends wrong, and how often it does. `asked`: every request. Of files
    that are not in `gives`, if it is set, nothing is given but the status `else_status`. `listed`: sizes of further
    files that are listed and not there.
    """

    def __init__(self, folder: Path, repo: str = "org/tiny", token: str | None = None) -> None:
        self.folder, self.repo, self.token = folder, repo, token
        self.faults: dict[str, deque[Fault]] = {"api": deque(), "resolve": deque(), "store": deque()}
        self.seen: Counter[str] = Counter()
        self.ranges: list[tuple[str, int, int]] = []
        self.store_bytes = 0
        self.uses_of_an_address = 10**9
        self.dies_after: int | None = None
        self.leaked: list[str] = []
        self.lies: dict[str, tuple[int, int]] = {}
        self.asked: list[str] = []
        self.gives: set[str] | None = None
        self.else_status = 404
        self.listed: dict[str, int] = {}
        self._uses: Counter[str] = Counter()
        self._issued = 0
        self.lock = threading.Lock()
        self._servers = [_Server(self, kind) for kind in ("hub", "store")]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_address[1]}"

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def content(self, name: str) -> tuple[bytes, str, str]:
        """A file's bytes, its digest, and what the store calls it: read and hashed again where it has changed."""
        path = self.folder / name
        status = path.stat()
        return _content(path, status.st_mtime_ns, status.st_size)

    def digest(self, name: str) -> tuple[int, str, bool]:
        raw, digest, _ = self.content(name)
        return len(raw), digest, name.endswith(LARGE)

    def model_info(self) -> dict[str, Any]:
        siblings = []
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                name = path.relative_to(self.folder).as_posix()
                size, digest, large = self.digest(name)
                lfs = {"lfs": {"size": size, "sha256": digest, "pointerSize": 134}} if large else {}
                siblings.append({"rfilename": name, "size": size, "blobId": digest[:40], **lfs})
        for name, size in self.listed.items():
            lfs = {"size": size, "sha256": "0" * 64, "pointerSize": 134}
            siblings.append({"rfilename": name, "size": size, "blobId": "0" * 40, "lfs": lfs})
        return {
            "id": self.repo,
            "modelId": self.repo,
            "sha": COMMIT,
            "private": False,
            "siblings": siblings,
            "tags": [],
        }

    def tree(self) -> list[dict[str, Any]]:
        files = self.model_info()["siblings"]
        return [
            {"type": "file", "path": f["rfilename"], "size": f["size"], "oid": f["blobId"]}
            | ({"lfs": {**f["lfs"], "oid": f["lfs"]["sha256"]}} if "lfs" in f else {})
            for f in files
        ]

    def address(self, name: str) -> str:
        with self.lock:
            self._issued += 1
            return f"http://127.0.0.1:{self._servers[1].server_address[1]}/{name}?signature={self._issued}"

    def expired(self, signature: str) -> bool:
        with self.lock:
            self._uses[signature] += 1
            return self._uses[signature] > self.uses_of_an_address

    def as_sent(self, name: str, body: bytes, first: int) -> bytes:
        """The bytes of a range, one of them wrong where the store lies about it."""
        with self.lock:
            at, left = self.lies.get(name, (0, 0))
            if not left or not first <= at < first + len(body):
                return body
            self.lies[name] = at, left - 1
        return body[: at - first] + bytes([body[at - first] ^ 1]) + body[at - first + 1 :]

    def fault(self, place: str) -> Fault | None:
        with self.lock:
            self.seen[place] += 1
            if place == "store" and self.dies_after is not None and self.seen[place] > self.dies_after:
                return Fault(503)
            return self.faults[place].popleft() if self.faults[place] else None


@lru_cache(maxsize=64)
def _content(path: Path, changed_ns: int, size: int) -> tuple[bytes, str, str]:
    raw = path.read_bytes()
    large = path.name.endswith(LARGE)
    hasher = hashlib.sha256(raw) if large else hashlib.sha1(b"blob %d\0" % len(raw) + raw)
    return raw, hasher.hexdigest(), hashlib.md5(raw).hexdigest()


@contextmanager
def serving(folder: Path, cache: Path, monkeypatch: Any) -> Iterator[FakeHub]:
    """Serve a folder to this process' huggingface_hub, whose cache is at another."""
    from huggingface_hub import constants

    served = FakeHub(folder)
    template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", served.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("hobbit_export.hub.failures.FIRST_PAUSE_S", 0.01)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    try:
        yield served
    finally:
        served.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: FakeHub, kind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.kind = hub, kind


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.route()

    def do_GET(self) -> None:
        self.route()

    def route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        with self.server.hub.lock:
            self.server.hub.asked.append(f"{self.command} {path}")
        if self.server.kind == "store":
            self.store(path[1:])
            return
        if self.server.hub.token is not None and self.headers.get("Authorization") != f"Bearer {self.server.hub.token}":
            self.answer(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif found := re.fullmatch(rf"/api/models/{self.server.hub.repo}(?:/revision/([^/]+))?", path):
            self.api(found[1])
        elif path == f"/api/models/{self.server.hub.repo}/tree/{COMMIT}":
            self.answer(200, json.dumps(self.server.hub.tree()).encode(), {"Content-Type": "application/json"})
        elif found := re.fullmatch(rf"/{self.server.hub.repo}/resolve/{COMMIT}/(.+)", path):
            self.resolve(found[1])
        else:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def api(self, revision: str | None) -> None:
        if fault := self.server.hub.fault("api"):
            self.answer(fault.status, b"{}", fault.headers)
        elif revision not in (None, "main", "v1", COMMIT):
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            self.answer(200, json.dumps(self.server.hub.model_info()).encode(), {"Content-Type": "application/json"})

    def resolve(self, name: str) -> None:
        if self.server.hub.gives is not None and name not in self.server.hub.gives:
            self.answer(self.server.hub.else_status, b"", {"X-Error-Code": "EntryNotFound"})
            return
        if not (self.server.hub.folder / name).is_file():
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        size, digest, large = self.server.hub.digest(name)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        fault = self.server.hub.fault("resolve")
        if fault and fault.status:
            self.answer(fault.status, b"", fault.headers)
        elif large:
            linked = {
                "X-Linked-Size": str(size),
                "X-Linked-Etag": f'"{digest}"',
                "Location": self.server.hub.address(name),
            }
            self.answer(302, b"", headers | linked | (fault.headers if fault else {}))
        else:
            self.answer(200, (self.server.hub.folder / name).read_bytes(), headers)

    def store(self, name: str) -> None:
        if "Authorization" in self.headers:
            self.server.hub.leaked.append(name)
        fault = self.server.hub.fault("store")
        if fault and fault.status:
            self.answer(fault.status, b"", fault.headers)
            return
        if self.server.hub.expired(parse_qs(urlsplit(self.path).query)["signature"][0]):
            self.answer(403, b"expired", {})
            return
        whole, _, etag = self.server.hub.content(name)
        headers = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if found:
            first, last = int(found[1]), min(int(found[2] or len(whole) - 1), len(whole) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(whole)}"
            body, status = self.server.hub.as_sent(name, whole[first : last + 1], first), 206
            with self.server.hub.lock:
                self.server.hub.ranges.append((name, first, last + 1))
        else:
            body, status = whole, 200
        with self.server.hub.lock:
            self.server.hub.store_bytes += len(body)
        self.answer(status, body, headers | (fault.headers if fault else {}), fault.cut if fault else None)

    def answer(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
            self.wfile.flush()
        if cut is not None:
            self.close_connection = True
