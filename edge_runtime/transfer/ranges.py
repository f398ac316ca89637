"""Files and ranges of files over HTTP, no byte of an answer that is not what was asked for."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator

from edge_runtime.base.errors import BundleError, ConfigError, HobbitError, HubError
from edge_runtime.transfer.http import Client
from edge_runtime.transfer.patience import Again

READ_BYTES = 256 << 10
_BUSY = {408, 425, 429, 500, 502, 503, 504}
_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


def ranged(
    client: Client, url: str, where: str, start: int, stop: int, size: int, *, may_skip: bool
) -> Iterator[bytes]:
    """Yield the bytes `start` to `stop` (exclusive) of a file that has `size` bytes.

    Args:
        client: sends the request.
        url: of the file.
        where: begins messages.
        start: first byte.
        stop: end, exclusive.
        size: of the whole file, as the manifest says; a server that says otherwise is refused.
        may_skip: of a server that cannot send a part, take the whole file and pass over what comes before.

    Raises:
        Again: the connection ended early, or the server is busy.
        BundleError: the server has another file.
        HubError, ConfigError: it does not answer what was asked.
    """
    headers = {} if (start, stop) == (0, size) else {"Range": f"bytes={start}-{stop - 1}"}
    with client.request("GET", url, where, headers) as response:
        skip = _check_answer(response, where, start, stop, size, may_skip=may_skip)
        left = skip + stop - start
        while left:
            data = response.read1(min(READ_BYTES, left))
            if not data:
                raise Again(f"{where}: the connection ended {left} bytes early")
            left -= len(data)
            if skip < len(data):
                yield data[skip:]
            skip = max(0, skip - len(data))
        if response.length is None and stop == size and response.read1(1):
            raise BundleError(f"{where}: expected {size} bytes, the server sends more. Ask whoever runs it.")


def small(client: Client, url: str, where: str, limit: int) -> bytes:
    """Return a small file whose size is not known.

    Raises:
        Again, BundleError, HubError, ConfigError: see `ranged`.
    """
    with client.request("GET", url, where) as response:
        if response.status != 200:
            raise refusal(where, response)
        data = bytearray()
        while len(data) <= limit and (more := response.read1(min(READ_BYTES, limit + 1 - len(data)))):
            data += more
        if len(data) > limit:
            raise BundleError(f"{where}: expected at most {limit} bytes, the server sends more.")
        if response.length:
            raise Again(f"{where}: the connection ended {response.length} bytes early")
        return bytes(data)


def refusal(where: str, response: http.client.HTTPResponse) -> Again | HobbitError:
    """Return what a status that is no success means."""
    status, after = response.status, response.headers.get("Retry-After", "")
    if status in _BUSY:
        return Again(f"{where}: the server said {status}", float(after) if re.fullmatch(r"[0-9]{1,5}", after) else None)
    if status in (401, 403, 407):
        return ConfigError(
            f"{where}: the server refused access ({status}). Give a name and password in the address "
            "(https://name:password@...), or for a hub a token in HF_TOKEN."
        )
    if status in (404, 410):
        return ConfigError(
            f"{where}: the server has no such file ({status}). Check the address: it is a bundle's folder."
        )
    return HubError(f"{where}: the server said {status} {response.reason[:60]}. Run the same command again to resume.")


def _check_answer(
    response: http.client.HTTPResponse, where: str, start: int, stop: int, size: int, *, may_skip: bool
) -> int:
    """Refuse an answer that is not what was asked for; return how many bytes come before it."""
    if response.status == 416:
        raise BundleError(f"{where}: expected {size} bytes, the server has fewer. Its manifest is of another bundle.")
    if response.status not in (200, 206):
        raise refusal(where, response)
    coding = response.headers.get("Content-Encoding", "identity")
    if coding != "identity":
        raise HubError(f"{where}: expected the file as it is, the server sends it as {coding[:40]!r}.")
    if response.status == 206:
        shown = response.headers.get("Content-Range", "nothing")[:80]
        found = _RANGE.fullmatch(shown)
        if found is None or tuple(map(int, found.groups())) != (start, stop - 1, size):
            raise BundleError(f"{where}: expected bytes {start}-{stop - 1} of {size}, the server sends {shown!r}.")
        _check_length(response, where, stop - start)
        return 0
    _check_length(response, where, size)
    if start and not may_skip:
        raise HubError(
            f"{where}: the server cannot send parts of files, so that tiers cannot be left out. "
            "Take all tiers, or serve the bundle with a server that knows ranges (nginx, Caddy, Apache)."
        )
    return start


def _check_length(response: http.client.HTTPResponse, where: str, expected: int) -> None:
    if response.length not in (None, expected):
        raise BundleError(f"{where}: expected {expected} bytes, the server sends {response.length}.")
