"""Where a bundle comes from: a folder, an HTTP server, or a hub. Each gives readers, one for each thread."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote, urlsplit

from edge_runtime.base.errors import BundleError, ConfigError
from edge_runtime.bundle.files import open_regular, read_regular
from edge_runtime.bundle.manifest import NAME as MANIFEST
from edge_runtime.transfer.address import is_address

_HUB = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([\w./+-]{1,128}))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_READ_BYTES = 1 << 20


class Reader(Protocol):
    """Reads files of one bundle that is elsewhere; one thread a reader."""

    def manifest(self, limit: int) -> bytes:
        """Return the manifest's bytes, at most `limit`."""
        ...

    def read(self, name: str, start: int, stop: int, size: int, *, may_skip: bool) -> Iterator[bytes]:
        """Yield bytes of a part; see `edge_runtime.transfer.ranges.ranged` for arguments and errors."""
        ...

    def another(self) -> Reader:
        """Return one more reader, of the very same files."""
        ...

    def stop(self) -> None:
        """End what another thread waits for."""
        ...

    def close(self) -> None:
        """Give back what is open."""
        ...


class Origin(Protocol):
    """A bundle elsewhere."""

    @property
    def label(self) -> str:
        """What people see; no secrets."""
        ...

    @property
    def name(self) -> str:
        """Name of the model, if nobody says another."""
        ...

    def reader(self, timeout_s: float) -> Reader:
        """Return a reader."""
        ...


def origin_of(text: str) -> Origin:
    """Return where an argument of `hobbit pull` says a bundle is.

    Raises:
        ConfigError: it is neither a folder nor an address nor a name on a hub.
    """
    if text.startswith(("http://", "https://")):
        return HttpOrigin.of(text)
    if (Path(text) / MANIFEST).exists():
        return FolderOrigin(Path(text))
    found = _HUB.fullmatch(text.removeprefix("hf://"))
    if found and (text.startswith("hf://") or not Path(text).exists()):
        return _hub_origin(found[1], found[2])
    raise ConfigError(
        f"{text[:200]}: expected a folder with a {MANIFEST}, an address (https://host/folder) or a name on a hub "
        "(org/name or org/name@revision). Nothing like that is here."
    )


@dataclass(frozen=True)
class FolderOrigin:
    """A bundle in a folder of this machine, or one it has mounted."""

    path: Path

    @property
    def label(self) -> str:
        """See `Origin`."""
        return str(self.path)

    @property
    def name(self) -> str:
        """See `Origin`."""
        return self.path.resolve().name

    def reader(self, timeout_s: float) -> Reader:
        """See `Origin`."""
        return _FolderReader(self.path)


@dataclass(frozen=True)
class HttpOrigin:
    """A bundle below an address.

    Attributes:
        base: the address of the folder, ending with a slash.
        query: added to each address.
        private: headers for that server alone.
        revision: of a repository on a hub; filled into the address where it says `{revision}`.
    """

    base: str
    label: str
    name: str
    query: str = ""
    private: dict[str, str] = field(default_factory=dict, repr=False)
    revision: str = ""

    @staticmethod
    def of(url: str) -> HttpOrigin:
        """Return the origin of an address of a bundle's folder, or of its manifest.

        Raises:
            ConfigError: it has no host.
        """
        if not is_address(url):
            shown = re.sub(r"//[^/]*@", "//", url)[:80]
            raise ConfigError(f"{shown}: expected an address with a host, such as https://host/folder.")
        at = urlsplit(url)
        netloc = at.netloc.rpartition("@")[2]
        path = quote(at.path.removesuffix(MANIFEST).rstrip("/"), safe="/%:@!$&'()*+,;=~-._")
        private = {}
        if at.username is not None:
            pair = f"{unquote(at.username)}:{unquote(at.password or '')}"
            private["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        label = f"{at.scheme}://{netloc}{path}"
        name = re.sub(r"[^\w.-]", "-", unquote(path.rpartition("/")[2]), flags=re.ASCII).lstrip(".-")
        return HttpOrigin(f"{label}/", label, name or (at.hostname or ""), at.query, private)

    def url(self, name: str) -> str:
        """Return the address of a file."""
        base = self.base.replace("{revision}", quote(self.revision, safe=""))
        return base + quote(name) + (f"?{self.query}" if self.query else "")

    def reader(self, timeout_s: float) -> Reader:
        """See `Origin`."""
        return HttpReader(self, timeout_s)


def _hub_origin(repo: str, revision: str | None) -> HttpOrigin:
    """Return a repository of the hub that HF_ENDPOINT names; its token is read where huggingface_hub keeps it."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ConfigError(f"{repo}: HF_HUB_OFFLINE forbids it. Unset it, or give a folder.")
    if not is_address(endpoint):
        raise ConfigError(
            f"HF_ENDPOINT: expected the address of a hub, such as https://huggingface.co, got {endpoint[:80]!r}. "
            "Correct it, or unset it."
        )
    token = os.environ.get("HF_TOKEN") or _stored_token()
    private = {"Authorization": f"Bearer {token}"} if token else {}
    label = repo if revision is None else f"{repo}@{revision}"
    return HttpOrigin(f"{endpoint}/{repo}/resolve/{{revision}}/", label, repo, "", private, revision or "main")


def _stored_token() -> str:
    try:
        home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
        path = Path(os.environ.get("HF_TOKEN_PATH") or Path(home) / "token")
        return path.read_text("ascii")[:1000].strip()
    except (OSError, RuntimeError, UnicodeDecodeError):
        return ""


class HttpReader:
    """`Reader` over HTTP. On a hub everything is read at the commit that the manifest came from."""

    def __init__(self, origin: HttpOrigin, timeout_s: float) -> None:
        from edge_runtime.transfer.http import Client

        self._origin, self._timeout_s = origin, timeout_s
        self._client = Client(timeout_s, origin.base, origin.private)

    def manifest(self, limit: int) -> bytes:
        """See `Reader`."""
        from edge_runtime.transfer.ranges import small

        raw = small(self._client, self._origin.url(MANIFEST), f"{self._origin.label}: {MANIFEST}", limit)
        if self._origin.revision and _COMMIT.fullmatch(self._client.commit):
            self._origin = replace(self._origin, revision=self._client.commit)
        return raw

    def read(self, name: str, start: int, stop: int, size: int, *, may_skip: bool) -> Iterator[bytes]:
        """See `Reader`."""
        from edge_runtime.transfer.ranges import ranged

        yield from ranged(self._client, self._origin.url(name), name, start, stop, size, may_skip=may_skip)

    def another(self) -> Reader:
        """See `Reader`."""
        return HttpReader(self._origin, self._timeout_s)

    def stop(self) -> None:
        """See `Reader`."""
        self._client.stop()

    def close(self) -> None:
        """See `Reader`."""
        self._client.close()


class _FolderReader:
    """`Reader` of a folder: its files are opened as those of any bundle are, never through links."""

    def __init__(self, path: Path) -> None:
        self._path, self._is_stopped = path, False

    def manifest(self, limit: int) -> bytes:
        return read_regular(self._path, MANIFEST, limit=limit)

    def read(self, name: str, start: int, stop: int, size: int, *, may_skip: bool) -> Iterator[bytes]:
        descriptor = open_regular(self._path, name, size)
        try:
            while start < stop and not self._is_stopped:
                data = os.pread(descriptor, min(_READ_BYTES, stop - start), start)
                if not data:
                    raise BundleError(f"{name}: ended {stop - start} bytes early. Export the bundle again.")
                start += len(data)
                yield data
        finally:
            os.close(descriptor)

    def another(self) -> Reader:
        return _FolderReader(self._path)

    def stop(self) -> None:
        self._is_stopped = True

    def close(self) -> None:
        pass
