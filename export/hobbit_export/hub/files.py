"""`ByteFiles` of a repository: small files are here, weight files are read by ranges from the hub."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hobbit_export.byte_files import HUB_BLOCKS, Received
from hobbit_export.hub.blocks import BLOCK_BYTES, BlockCache
from hobbit_export.hub.digests import Digests
from hobbit_export.hub.listing import Listing
from hobbit_export.hub.transport import Transport

_MOST_BYTES = 1 << 30
_SMALL_READS = 8


class HubFiles:
    """The files of one repository at one commit.

    Outside `kept_in` every read is one request: for headers. Within it, blocks of the files are kept on the drive.
    """

    def __init__(self, listing: Listing, folder: Path, block_bytes: int = BLOCK_BYTES) -> None:
        """Take a repository.

        Args:
            listing: of the repository.
            folder: has its small files.
            block_bytes: fetched at a time.
        """
        self.folder = folder
        self.listing = listing
        self.transport = Transport(listing)
        self._digests, self._read = Digests(), set[str]()
        self._block_bytes = block_bytes
        self._cache: BlockCache | None = None

    @property
    def room_bytes(self) -> int:
        """Two weight files: what an export may have on the drive beyond its bundle."""
        return 2 * self._largest

    @property
    def _largest(self) -> int:
        weights = [file.size for file in self.listing.files.values() if file.name.endswith((".safetensors", ".gguf"))]
        return max(weights, default=0)

    def kept_bytes(self, beside: int) -> int:
        """The most that blocks on the drive take: what other files leave of `room_bytes`, or 1 GiB if that is less."""
        least = 2 * min(self._block_bytes, self._largest)
        return min(_MOST_BYTES, max(self.room_bytes * 7 // 8 - beside, least))  # the journal takes room, too

    def names(self) -> set[str]:
        """Names of all files that are not in a folder of the repository."""
        return {name for name in self.listing.files if "/" not in name}

    def size(self, name: str) -> int:
        """Bytes of a file, as the hub says."""
        return self.listing.files[name].size

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill a buffer; return how many bytes there were."""
        self._read.add(name)
        if self._cache is not None:
            return self._cache.read_into(name, offset, buffer)
        return self._read_now(name, offset, buffer)

    def read_many(self, ranges: Iterable[tuple[str, int, int]]) -> Iterator[bytes]:
        """Yield small ranges in order; several requests are under way at a time, and no blocks are fetched."""
        waiting: deque[Future[bytes]] = deque()
        with ThreadPoolExecutor(_SMALL_READS, thread_name_prefix="hobbit-export-samples") as pool:
            for name, offset, count in ranges:
                waiting.append(pool.submit(self._read_bytes, name, offset, count))
                if len(waiting) >= 2 * _SMALL_READS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def stamp(self, name: str) -> list[Any]:
        """Size and digest, as the hub says."""
        file = self.listing.files[name]
        return [file.size, file.digest]

    @contextmanager
    def kept_in(self, folder: Path, beside: int) -> Iterator[None]:
        """Keep blocks below a folder meanwhile."""
        sizes = {name: file.size for name, file in self.listing.files.items()}

        def fetch(name: str, start: int, stop: int) -> Iterator[memoryview]:
            parts = self.transport.fetch(self.listing.files[name], start, stop)
            yield from self._digests.note(name, start, stop, parts)

        cache = BlockCache(folder / HUB_BLOCKS, self.kept_bytes(beside), sizes, fetch, self._block_bytes)
        self._cache = cache
        try:
            yield
        except BaseException:
            self.transport.stop()
            raise
        finally:
            self._cache = None
            cache.close()

    def received(self) -> list[Received]:
        """Return what came since the last call, but for samples: an export takes them anew whenever it ends."""
        return self._digests.take()

    def recall(self, received: Iterable[Received]) -> None:
        """Remember what came in an earlier run.

        Raises:
            BundleError: the same range has come since, and was another one.
        """
        self._digests.recall(received)

    def provable(self) -> list[str]:
        """Names of the files that were read in parts."""
        return sorted(self._read)

    def check_whole(self, name: str, progress: Callable[[float], None]) -> None:
        """Read a file once more, to its end, and compare it with the hub's digest.

        Raises:
            BundleError: it has another, or what came of it before was not the same.
        """
        file, at = self.listing.files[name], 0

        def counted() -> Iterator[memoryview]:
            nonlocal at
            for data in Transport(self.listing).fetch(file, 0, file.size):  # that of an export may have been stopped
                yield data
                at += len(data)
                progress(at / file.size)

        self._digests.check(file, counted())

    def close(self) -> None:
        """End what is under way."""
        self.transport.stop()

    def _read_bytes(self, name: str, offset: int, count: int) -> bytes:
        out = bytearray(count)
        return bytes(out[: self._read_now(name, offset, memoryview(out), keep=False)])

    def _read_now(self, name: str, offset: int, buffer: memoryview, *, keep: bool = True) -> int:
        file = self.listing.files[name]
        done, stop = 0, min(offset + len(buffer), file.size)
        for data in self._digests.note(name, offset, stop, self.transport.fetch(file, offset, stop), keep=keep):
            buffer[done : done + len(data)] = data
            done += len(data)
        return done
