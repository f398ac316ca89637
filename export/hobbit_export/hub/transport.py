"""Reading ranges of a repository's files over HTTP: redirects, throttling and cut connections included."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from edge_runtime.base.errors import BundleError, HubError
from edge_runtime.transfer.hub_push import transport_errors
from hobbit_export.hub.failures import Again, Patience, once, refusal
from hobbit_export.hub.listing import HubFile, Listing

_READ_BYTES = 256 << 10
_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_STALE = (401, 403, 404, 410)
"""What a signed address answers once it has expired."""


@dataclass
class _Location:
    """Where a file's bytes are: an address that may expire, and the ETag its answers have had so far."""

    url: str
    etag: str | None = None


class Transport:
    """Ranges of the files of one repository at one commit. Threads may share it."""

    def __init__(self, listing: Listing) -> None:
        """Use huggingface_hub's HTTP client: its proxies, mirror (HF_ENDPOINT), token and timeouts."""
        from huggingface_hub.utils import build_hf_headers, get_session

        self._listing = listing
        self._client: Any = get_session()
        self._headers = build_hf_headers(library_name="hobbit-edge") | {"Accept-Encoding": "identity"}
        self._broken = transport_errors()
        self._locations: dict[str, _Location] = {}
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self.bytes_received = 0

    def stop(self) -> None:
        """End waits and downloads of other threads soon."""
        self._stopped.set()

    def fetch(self, file: HubFile, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes from `start` to `stop` (exclusive) in parts, going on after a cut where it was.

        Raises:
            ConfigError: no access, or no such file.
            BundleError: the file is not the one that the hub listed.
            HubError: the server does not answer, or not with what was asked for.
        """
        at, patience = start, Patience(self._stopped)
        while at < stop:
            try:
                for data in self._get(file, at, stop):
                    if self._stopped.is_set():
                        raise HubError(f"{file.name}: the export is ending.")
                    at += len(data)
                    patience.progress()
                    yield data
                if at < stop:
                    raise Again(f"{file.name}: the connection ended {stop - at} bytes early")
            except Again as err:
                patience.wait(err)

    def _get(self, file: HubFile, start: int, stop: int) -> Iterator[memoryview]:
        """Send one request and yield what it brings; raises Again where another may bring the rest."""
        location = self._location(file)
        headers = self._headers | {"Range": f"bytes={start}-{stop - 1}"}
        if not self._is_ours(location.url):  # a store elsewhere has its own signature in the address
            headers.pop("authorization", None)
        left = stop - start
        try:
            with self._client.stream(
                "GET", location.url, headers=headers, timeout=_timeout_s(), follow_redirects=True
            ) as response:
                self._check(response, location, file, start, stop)
                for data in response.iter_raw(_READ_BYTES):
                    with self._lock:
                        self.bytes_received += len(data)
                    if len(data) > left:
                        raise HubError(f"{file.name}: expected {stop - start} bytes, the server sent more.")
                    left -= len(data)
                    yield memoryview(data)
        except self._broken as err:
            raise Again(f"{file.name}: {str(err)[:200] or type(err).__name__}") from err

    def _check(self, response: Any, location: _Location, file: HubFile, start: int, stop: int) -> None:
        status = response.status_code
        if status in _STALE:
            with self._lock:
                if self._locations.get(file.name) is location:
                    del self._locations[file.name]
            raise Again(f"{file.name}: the address that the hub gave for it has expired ({status})")
        if status == 200 and (start, stop) == (0, file.size):
            return
        if status == 200:
            raise HubError(
                f"{file.name}: the server ignores ranges, so that it cannot be read in parts. "
                "Download the whole checkpoint by --keep-source DIR."
            )
        if status != 206:
            raise refusal(file.name, status, response.headers.get("Retry-After"))
        got = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        expected = (start, stop - 1, file.size)
        if got is None or tuple(map(int, got.groups())) != expected:
            shown = response.headers.get("Content-Range", "nothing")[:80]
            raise _changed(file, f"bytes {start}-{stop - 1} of {file.size}", shown)
        etag = response.headers.get("ETag")
        if location.etag not in (None, etag):
            raise _changed(file, f"ETag {location.etag}", str(etag)[:80])
        location.etag = etag

    def _location(self, file: HubFile) -> _Location:
        """Ask the hub where a file is, and whether it is still the file that was listed."""
        with self._lock:
            known = self._locations.get(file.name)
        if known is not None:
            return known
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

        listing = self._listing
        url = hf_hub_url(listing.repo, file.name, revision=listing.commit, endpoint=constants.ENDPOINT)
        found = once(file.name, lambda: get_hf_file_metadata(url, library_name="hobbit-edge", timeout=_timeout_s()))
        said = {"commit": found.commit_hash, "ETag": found.etag, "size": found.size}
        for what, expected in (("commit", self._listing.commit), ("ETag", file.digest), ("size", file.size)):
            if said[what] not in (None, expected):
                raise _changed(file, f"{what} {expected}", str(said[what])[:80])
        location = _Location(found.location)
        with self._lock:
            return self._locations.setdefault(file.name, location)

    @staticmethod
    def _is_ours(url: str) -> bool:
        from huggingface_hub import constants

        ours, theirs = urlsplit(constants.ENDPOINT), urlsplit(url)
        return (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc)


def _timeout_s() -> float:
    from huggingface_hub import constants

    return float(constants.HF_HUB_DOWNLOAD_TIMEOUT)


def _changed(file: HubFile, expected: str, got: str) -> BundleError:
    return BundleError(
        f"{file.name}: expected {expected}, the server has {got}: it is not the file that the hub lists. "
        "Try again later, or another mirror (HF_ENDPOINT)."
    )
