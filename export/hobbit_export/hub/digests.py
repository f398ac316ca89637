"""Whether what came of a repository's files is what the hub lists: digests of ranges as they came, and of whole files.

A hub's digest is of all bytes of a file in order, and an export reads them in another. So ranges are told apart by
digests of their own while they come; a file that is read from its beginning to its end, and has the hub's digest, then
proves all ranges that came of it. What came in an earlier run of an export is recalled from its journal.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.base.errors import BundleError
from hobbit_export.byte_files import Received
from hobbit_export.hub.listing import HubFile


def _hasher() -> Any:
    return hashlib.blake2b(digest_size=16)


@dataclass
class _Open:
    """A range that a pass through its file has begun."""

    start: int
    stop: int
    hasher: Any = field(default_factory=_hasher)


class Digests:
    """Of the ranges of a repository's files. Threads may share it."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], str] = {}
        self._new: list[Received] = []
        self._lock = threading.Lock()

    def note(
        self, file: str, start: int, stop: int, parts: Iterable[memoryview], *, keep: bool = True
    ) -> Iterator[memoryview]:
        """Pass on the parts of a range, and remember its digest.

        Args:
            file: name of the file.
            start: first byte.
            stop: end (exclusive).
            parts: the bytes.
            keep: whether `take` returns it.

        Raises:
            BundleError: the range has come before, and was another one.
        """
        hasher = _hasher()
        for part in parts:
            hasher.update(part)
            yield part
        self._remember(Received(file, start, stop, hasher.hexdigest()), keep=keep)

    def take(self) -> list[Received]:
        """Return what came since the last call."""
        with self._lock:
            new, self._new = self._new, []
        return new

    def recall(self, received: Iterable[Received]) -> None:
        """Remember what came in an earlier run.

        Raises:
            BundleError: a range has come since, and was another one.
        """
        for one in received:
            self._remember(one, keep=False)

    def check(self, file: HubFile, parts: Iterable[memoryview]) -> None:
        """Compare a whole file, and with it every range that came of it.

        Raises:
            BundleError: it has another digest than the hub states, or a range that came of it was another one.
        """
        whole, at, begun = file.hasher(), 0, list[_Open]()
        with self._lock:
            waiting = sorted(((start, stop) for name, start, stop in self._known if name == file.name), reverse=True)
        for part in parts:
            whole.update(part)
            end = at + len(part)
            while waiting and waiting[-1][0] < end:
                begun.append(_Open(*waiting.pop()))
            for one in begun:
                one.hasher.update(part[max(0, one.start - at) : one.stop - at])
                if one.stop <= end:
                    self._remember(Received(file.name, one.start, one.stop, one.hasher.hexdigest()), keep=False)
            begun = [one for one in begun if one.stop > end]
            at = end
        if whole.hexdigest() != file.digest:
            raise BundleError(
                f"{file.name}: expected the digest {file.digest} that the hub states, got {whole.hexdigest()}. "
                "Try again later, or another mirror (HF_ENDPOINT)."
            )

    def _remember(self, one: Received, *, keep: bool) -> None:
        with self._lock:
            known = self._known.setdefault((one.file, one.start, one.stop), one.digest)
            if known == one.digest and keep:
                self._new.append(one)
        if known != one.digest:
            raise BundleError(
                f"{one.file}: the bytes from {one.start} on came twice, and were not the same. "
                "Export again with --no-resume, from another mirror (HF_ENDPOINT) or with --keep-source DIR."
            )
