"""HTTP on the standard library: connections that are kept, redirects, proxies. One thread a client.

The only module of the runtime that opens a connection to elsewhere.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from edge_runtime.base.errors import ConfigError, HubError
from edge_runtime.transfer.address import is_address
from edge_runtime.transfer.patience import Again

_REDIRECTS = 5
_REDIRECTED, _STALE = (301, 302, 303, 307, 308), (401, 403, 404, 410)
"""What a server answers that has moved a file, and what an address answers that was signed and has expired."""
_LITTLE = 16 << 10
"""Bytes left unread that are worth a connection."""
_BROKEN = (OSError, http.client.HTTPException)


class Client:
    """Requests to one server and to wherever it redirects.

    Args:
        timeout_s: without an answer, or a byte, after which a connection counts as broken.
        home: address of the server; `private` headers go nowhere else.
        private: such as Authorization.

    Attributes:
        commit: what a hub said it sends files of.
    """

    def __init__(self, timeout_s: float, home: str, private: Mapping[str, str]) -> None:
        self._timeout_s, self._home, self._private = timeout_s, _server(urlsplit(home)), dict(private)
        self._open: dict[tuple[str, str], http.client.HTTPConnection] = {}
        self._moved: dict[str, SplitResult] = {}
        self.commit = ""
        self.is_stopped = False

    def stop(self) -> None:
        """End what another thread waits for."""
        self.is_stopped = True
        for connection in list(self._open.values()):
            with suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close all connections."""
        while self._open:
            self._open.popitem()[1].close()

    @contextmanager
    def request(
        self, method: str, url: str, where: str, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request and yield the answer, whatever its status; GET and HEAD follow redirects.

        Raises:
            Again: there is no answer, or it broke off.
            ConfigError: the server's certificate is not trusted, or it redirects to where nobody should follow.
        """
        at = self._moved.get(url) or urlsplit(url)
        for _ in range(_REDIRECTS + 1):
            response = self._send(method, at, where, dict(headers or {}), body)
            self.commit = response.headers.get("X-Repo-Commit", self.commit)
            target = response.headers.get("Location")
            if response.status in _STALE and url in self._moved:
                del self._moved[url]
                self._finish(response, at)
                at = urlsplit(url)
                continue
            if response.status not in _REDIRECTED or not target or method not in ("GET", "HEAD"):
                break
            self._finish(response, at)
            at = self._moved[url] = _followed(at, target, where)
        else:
            raise HubError(f"{where}: the server redirects more than {_REDIRECTS} times. Check the address.")
        try:
            yield response
        except _BROKEN as err:
            raise Again(f"{where}: the connection broke: {_said(err)}") from err
        finally:
            self._finish(response, at)

    def _finish(self, response: http.client.HTTPResponse, at: SplitResult) -> None:
        """Keep the connection if nothing is left unread, else close it."""
        with suppress(*_BROKEN):
            if response.length is not None and response.length <= _LITTLE:
                response.read()
        if not response.isclosed() or response.will_close:
            response.close()
            self._drop(at)

    def _send(
        self, method: str, at: SplitResult, where: str, headers: dict[str, str], body: Any
    ) -> http.client.HTTPResponse:
        """Send one request; once more where a connection that was kept turns out to be closed."""
        headers |= {"Accept-Encoding": "identity", "User-Agent": "hobbit-edge"}
        if _server(at) == self._home:
            headers |= self._private
        while True:
            kept = _server(at) in self._open
            try:
                connection, target = self._connection(at)
                with suppress(BrokenPipeError):  # the server has said no before it had the whole body
                    connection.request(method, target, body=body, headers=headers)
                return connection.getresponse()
            except ssl.SSLCertVerificationError as err:
                raise ConfigError(
                    f"{where}: the certificate of {at.hostname} is not trusted: {err.verify_message}."
                ) from err
            except _BROKEN as err:
                self._drop(at)
                if not kept or body is not None or self.is_stopped:
                    raise Again(f"{where}: no answer from {at.hostname}: {_said(err)}") from err

    def _connection(self, at: SplitResult) -> tuple[http.client.HTTPConnection, str]:
        """Return a connection to a server, and what to ask it for."""
        target = (at.path or "/") + (f"?{at.query}" if at.query else "")
        proxy = None if proxy_bypass(at.hostname or "") else getproxies().get(at.scheme)
        if proxy and at.scheme == "http":
            target = at._replace(netloc=_netloc(at), fragment="").geturl()
        known = self._open.get(_server(at))
        if known is None:
            known = self._open[_server(at)] = self._connect(at, proxy)
        return known, target

    def _connect(self, at: SplitResult, proxy: str | None) -> http.client.HTTPConnection:
        via = _proxy_of(proxy, at.scheme) if proxy else at
        make: Any = http.client.HTTPSConnection if at.scheme == "https" else http.client.HTTPConnection
        connection: http.client.HTTPConnection = make(via.hostname, via.port, timeout=self._timeout_s)
        if proxy and at.scheme == "https":
            connection.set_tunnel(at.hostname or "", at.port)
        return connection

    def _drop(self, at: SplitResult) -> None:
        if connection := self._open.pop(_server(at), None):
            connection.close()


def _followed(at: SplitResult, target: str, where: str) -> SplitResult:
    try:
        url = urljoin(at.geturl(), target)
    except ValueError:
        url = target
    if not is_address(url):
        raise ConfigError(f"{where}: the server redirects to {target[:80]!r}, which is no address: refused.")
    new = urlsplit(url)
    if at.scheme == "https" and new.scheme == "http":
        raise ConfigError(f"{where}: the server redirects to {new.scheme[:20]}://{(new.hostname or '')[:80]}: refused.")
    return new


def _proxy_of(text: str, scheme: str) -> SplitResult:
    url = text if "//" in text else f"http://{text}"
    if not is_address(url):
        raise ConfigError(
            f"{scheme}_proxy: expected an address such as http://host:3128, got {text.rpartition('@')[2][:80]!r}. "
            "Correct this variable, or unset it."
        )
    return urlsplit(url)


def _server(at: SplitResult) -> tuple[str, str]:
    return at.scheme, _netloc(at)


def _netloc(at: SplitResult) -> str:
    """Host and port, without a name and a password."""
    return at.netloc.rpartition("@")[2]


def _said(err: BaseException) -> str:
    return str(err)[:200] or type(err).__name__
