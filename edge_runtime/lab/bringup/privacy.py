"""What leaves the machine names nobody: the values that identify this one are replaced, wherever they stand."""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

_SERIALS = (
    "proc/device-tree/serial-number", "sys/class/dmi/id/product_serial", "sys/class/dmi/id/product_uuid",
    "sys/class/dmi/id/board_serial", "etc/machine-id", "var/lib/dbus/machine-id",
)  # fmt: skip
_SHORTEST = 3
_COMMON = {"root", "localhost", "jetson", "nvidia", "ubuntu", "debian", "user", "linux"}
"""Names that say nothing of a person, and are words of paths and messages."""
_DROPPED = {"text", "token_ids"}
"""Keys of reports that hold what a model wrote."""


class Scrubber:
    """Replaces what identifies this machine and its user.

    Args:
        paths: folders by what stands for them.
        root: where /proc, /sys and /etc are; tests pass a fake tree.
    """

    def __init__(self, paths: Mapping[str, Path], root: Path = Path("/")) -> None:
        found = [(str(path.resolve()), name) for name, path in paths.items()]
        found += [(str(path), name) for name, path in paths.items()]
        found += [(str(Path.home()), "HOME"), *_identifiers(root)]
        said = {value: name for value, name in found if len(value) >= _SHORTEST and value.lower() not in _COMMON}
        self._said = sorted(said.items(), key=lambda pair: -len(pair[0]))  # a path before what it lies in

    def text(self, text: str) -> str:
        """Return a text without them."""
        for value, name in self._said:
            text = re.sub(rf"(?<![0-9A-Za-z]){re.escape(value)}(?![0-9A-Za-z])", f"<{name}>", text, flags=re.IGNORECASE)
        return text

    def value(self, value: Any) -> Any:
        """Return plain data without them, and without texts of a model."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(each) for each in value]
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(each) for key, each in value.items() if key not in _DROPPED}
        return value


def _identifiers(root: Path) -> Iterator[tuple[str, str]]:
    host = socket.gethostname()
    yield from ((host, "host"), (host.partition(".")[0], "host"))
    with suppress(KeyError, OSError):  # a user id without an account
        yield getpass.getuser(), "user"
    for name in _SERIALS:
        yield _read(root / name), "serial"
    for interface in sorted((root / "sys/class/net").glob("*/address")):
        yield _read(interface), "address"
    for address in _local(_read(root / "proc/net/fib_trie")):
        yield address, "address"
    for line in _read(root / "proc/net/if_inet6").splitlines():
        yield _colons(line.partition(" ")[0]), "address"


def _local(table: str) -> list[str]:
    """Addresses of this machine: each stands in the line before it is called local."""
    lines = [line.split() for line in table.splitlines()]
    found = {line[-1] for line, after in pairwise(lines) if after[-2:] == ["host", "LOCAL"] and line[:1] == ["|--"]}
    return sorted(address for address in found if not address.startswith("127."))


def _colons(digits: str) -> str:
    """An address of 32 digits as the system prints it."""
    try:
        return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))
    except (ValueError, OSError):
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""
