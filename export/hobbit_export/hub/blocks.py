"""Blocks of remote files on the drive: fetched when needed and a little before, the oldest deleted for new ones.

Reads of the exporter jump within a layer (gate, up, down; two experts at a time) but go through a file once. Blocks
turn them into few large requests. They are files of their own, so that giving one back is deleting it.
"""

from __future__ import annotations

import shutil
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

BLOCK_BYTES = 8 << 20
_THREADS = 4
_MOST_AHEAD = 8


class Key(NamedTuple):
    """One block of one file."""

    file: str
    number: int


Fetch = Callable[[str, int, int], Iterator[memoryview]]
"""File, first byte, end (exclusive) -> the bytes."""


class BlockCache:
    """At most `limit_bytes` of blocks below a folder of its own."""

    def __init__(
        self, folder: Path, limit_bytes: int, sizes: dict[str, int], fetch: Fetch, block_bytes: int = BLOCK_BYTES
    ) -> None:
        self._folder, self._limit, self._sizes, self._fetch = folder, limit_bytes, sizes, fetch
        self._block_bytes = block_bytes
        self._blocks: OrderedDict[Key, Future[Path]] = OrderedDict()
        self._pins: Counter[Key] = Counter()
        self._held = self.peak_bytes = 0
        self._runs: dict[str, tuple[int, int]] = {}
        self._changed = threading.Condition()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="hobbit-export-hub")

    def read_into(self, file: str, offset: int, buffer: memoryview) -> int:
        """Fill a buffer; return how many bytes there were."""
        stop = min(offset + len(buffer), self._sizes[file])
        at = offset
        while at < stop:
            key = Key(file, at // self._block_bytes)
            first = key.number * self._block_bytes
            until = min(stop, first + self._block_bytes)
            with open(self._pinned(key), "rb", buffering=0) as block:
                try:
                    block.seek(at - first)
                    _read_all(block, buffer[at - offset : until - offset])
                finally:
                    self._unpin(key)
            at = until
        return max(0, at - offset)

    def close(self) -> None:
        """Delete all blocks; whoever fetches must have been told to stop."""
        self._pool.shutdown(cancel_futures=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _pinned(self, key: Key) -> Path:
        """Wait for a block and keep it until `_unpin`; begin to fetch those after it if reads go forward."""
        with self._changed:
            self._pins[key] += 1
            future = self._blocks.get(key)
            while future is None:
                future = self._start(key)
                if future is None:
                    self._changed.wait()
                    future = self._blocks.get(key)
            self._blocks.move_to_end(key)
            for index in self._ahead(key):
                if self._start(Key(key.file, index)) is None:
                    break
        try:
            return future.result()
        except BaseException:
            self._unpin(key)
            raise

    def _unpin(self, key: Key) -> None:
        with self._changed:
            self._pins[key] -= 1
            if not self._pins[key]:
                del self._pins[key]
            self._changed.notify_all()

    def _ahead(self, key: Key) -> range:
        """Which blocks to begin with: as many as were read one after the other so far."""
        last, run = self._runs.get(key.file, (-1, 0))
        if key.number == last + 1:
            last, run = key.number, run + 1
        elif not last - 2 <= key.number <= last:
            last, run = key.number, 0
        self._runs[key.file] = last, run
        blocks = -(-self._sizes[key.file] // self._block_bytes)
        return range(last + 1, min(blocks, last + 1 + min(run, _MOST_AHEAD)))

    def _start(self, key: Key) -> Future[Path] | None:
        """Begin to fetch a block unless it is there; None if there is no room for it now."""
        found = self._blocks.get(key)
        if found is not None:
            return found
        size = self._size(key)
        while self._held + size > self._limit:
            oldest = next((k for k, f in self._blocks.items() if f.done() and not self._pins[k]), None)
            if oldest is None:
                return None
            done = self._forget(oldest)
            if not done.exception():
                done.result().unlink()
        self._held += size
        self.peak_bytes = max(self.peak_bytes, self._held)
        future = self._blocks[key] = self._pool.submit(self._download, key)
        future.add_done_callback(lambda done: self._fetched(key, done))
        return future

    def _forget(self, key: Key) -> Future[Path]:
        self._held -= self._size(key)
        return self._blocks.pop(key)

    def _fetched(self, key: Key, done: Future[Path]) -> None:
        with self._changed:
            if (done.cancelled() or done.exception()) and self._blocks.get(key) is done:
                self._forget(key)
            self._changed.notify_all()

    def _download(self, key: Key) -> Path:
        start = key.number * self._block_bytes
        path = self._folder / f"{key.file}.{key.number}"
        with open(path, "wb", buffering=0) as file:
            for data in self._fetch(key.file, start, start + self._size(key)):
                _write_all(file, data)
        return path

    def _size(self, key: Key) -> int:
        return min(self._block_bytes, self._sizes[key.file] - key.number * self._block_bytes)


def _read_all(file: object, buffer: memoryview) -> None:
    done = 0
    while done < len(buffer):
        got = file.readinto(buffer[done:])  # type: ignore[attr-defined]
        if not got:
            raise OSError("a block on the drive was cut short")
        done += got


def _write_all(file: object, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]  # type: ignore[attr-defined]
