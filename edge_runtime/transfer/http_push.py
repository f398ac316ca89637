"""Sends a bundle to a server that takes PUT: parts, each hashed while it goes, then the manifest."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

from edge_runtime.base.errors import BundleError, ConfigError, HubError
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.manifest import NAME as MANIFEST
from edge_runtime.bundle.manifest import Part
from edge_runtime.bundle.manifest_file import MAX_MANIFEST_BYTES
from edge_runtime.transfer.http import Client
from edge_runtime.transfer.origin import HttpOrigin
from edge_runtime.transfer.patience import Again, Patience, Retrying
from edge_runtime.transfer.ranges import refusal, small
from edge_runtime.transfer.sent import Sent

_Result = TypeVar("_Result")
_TAKEN = (200, 201, 204)


class HttpPush:
    """One push of one bundle.

    Args:
        bundle: to send.
        origin: where it will be.
        retrying: what of the server is put up with.
        progress: called with bytes more that are there; negative where a request failed.
    """

    def __init__(self, bundle: Bundle, origin: HttpOrigin, retrying: Retrying, progress: Callable[[int], None]) -> None:
        self._bundle, self._origin, self._retrying, self._progress = bundle, origin, retrying, progress
        self._client = Client(retrying.timeout_s, origin.base, origin.private)

    def run(self, *, replace: bool) -> int:
        """Send what the server has not got, and return the bytes sent.

        Raises:
            ConfigError, HubError, BundleError: see `edge_runtime.transfer.push.push`.
        """
        manifest, sent = self._bundle.manifest, 0
        raw = (self._bundle.path / MANIFEST).read_bytes()
        with closing(self._client):
            there = self._patiently(self._manifest)
            if there == raw:
                self._progress(sum(part.bytes for part in manifest.parts))
                return 0
            if there is not None:
                self._make_way(replace=replace)
            done = Sent(self._origin.label, manifest.bundle_id)
            for part in manifest.parts:
                if done.has(part.name, self._mark(part)):
                    self._progress(part.bytes)
                    continue
                self._send(part)
                done.add(part.name, self._mark(part, must_be_there=True))
                sent += part.bytes
            self._patiently(lambda: self._request("PUT", MANIFEST, raw, len(raw)))
            if self._patiently(self._manifest) != raw:
                raise HubError(
                    f"{self._origin.label}: the server took {MANIFEST} and has another. Tell whoever runs it."
                )
            done.forget()
        return sent

    def _manifest(self) -> bytes | None:
        """Return the manifest the server has, or None."""
        where = f"{self._origin.label}: {MANIFEST}"
        with self._client.request("HEAD", self._origin.url(MANIFEST), where) as response:
            if response.status in (404, 410):
                return None
            if response.status != 200:
                raise refusal(where, response)
        return small(self._client, self._origin.url(MANIFEST), where, MAX_MANIFEST_BYTES)

    def _make_way(self, *, replace: bool) -> None:
        """Delete the manifest first, so that nobody pulls a mixture."""
        if not replace:
            raise ConfigError(
                f"{self._origin.label}: another bundle is there. Replace it with --replace, or choose another folder."
            )
        self._patiently(lambda: self._request("DELETE", MANIFEST, None, 0))

    def _mark(self, part: Part, *, must_be_there: bool = False) -> str:
        """Return what the server says of a part that has the right size: its ETag, or when it was changed last."""

        def ask() -> str:
            with self._client.request("HEAD", self._origin.url(part.name), part.name) as response:
                if response.status == 200 and response.headers.get("Content-Length") == str(part.bytes):
                    return response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
                if response.status not in (200, 404, 410):
                    raise refusal(part.name, response)
                shown = response.headers.get("Content-Length", "nothing")[:20]
            if must_be_there:
                raise HubError(f"{part.name}: {part.bytes} bytes were sent, the server has {shown}. Is its drive full?")
            return ""

        return self._patiently(ask)

    def _send(self, part: Part) -> None:
        def put() -> None:
            with closing(_Body(self._bundle, part, self._progress)) as body:
                try:
                    self._request("PUT", part.name, body, part.bytes)
                    body.check()
                except BaseException:
                    self._progress(-body.count)
                    raise

        self._patiently(put)

    def _request(self, method: str, name: str, body: object, size: int) -> None:
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        with self._client.request(method, self._origin.url(name), name, headers, body) as response:
            if response.status in (405, 501):
                raise ConfigError(
                    f"{self._origin.label}: the server takes no {method} ({response.status}). Allow it there (WebDAV), "
                    "or push to a folder that it serves."
                )
            if response.status not in _TAKEN:
                raise refusal(name, response)

    def _patiently(self, ask: Callable[[], _Result]) -> _Result:
        patience = Patience(self._retrying, threading.Event())
        while True:
            try:
                return ask()
            except Again as err:
                patience.wait(err)


class _Body:
    """A part as the body of a request: read once, hashed and counted while it is sent."""

    def __init__(self, bundle: Bundle, part: Part, progress: Callable[[int], None]) -> None:
        self._file = os.fdopen(bundle.open_part(part), "rb")
        self._part, self._progress, self._sha, self.count = part, progress, hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        block = self._file.read(max(size, 256 << 10))
        self._sha.update(block)
        self.count += len(block)
        self._progress(len(block))
        return block

    def check(self) -> None:
        """Refuse what is not the part of the manifest.

        Raises:
            BundleError: it is damaged.
        """
        if self._sha.hexdigest() != self._part.sha256:
            raise BundleError(
                f"{self._part.name}: checksum does not match the manifest (damaged). Nothing was published."
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()
