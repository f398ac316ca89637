"""Whether what came of a repository's files is what the hub lists: digests of blocks as they came, and of whole files.

A hub's digest is of all bytes of a file in order, and an export reads them in another. So blocks are told apart by
digests of their own while they come; a file that is read from its beginning to its end, and has the hub's digest, then
proves all of its blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from edge_runtime.base.errors import BundleError
from hobbit_export.hub.listing import HubFile


class Digests:
    """Of the blocks of a repository's files. Threads may share it."""

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._blocks: dict[tuple[str, int], bytes] = {}

    def note(self, file: str, number: int, pieces: Iterable[memoryview]) -> Iterable[memoryview]:
        """Pass on the pieces of a block, and remember their digest.

        Raises:
            BundleError: the block has come before, and was another one.
        """
        hasher = hashlib.blake2b(digest_size=16)
        for piece in pieces:
            hasher.update(piece)
            yield piece
        self._remember(file, number, hasher.digest())

    def check(self, file: HubFile, pieces: Iterable[memoryview]) -> None:
        """Compare a whole file, and with it every block that came of it.

        Raises:
            BundleError: it has another digest than the hub states, or a block that came of it was another one.
        """
        whole, block, at = file.hasher(), hashlib.blake2b(digest_size=16), 0
        for piece in pieces:
            whole.update(piece)
            left = piece
            while left:
                part = left[: self._block_bytes - at % self._block_bytes]
                block.update(part)
                at, left = at + len(part), left[len(part) :]
                if at % self._block_bytes == 0 or at == file.size:
                    self._remember(file.name, (at - 1) // self._block_bytes, block.digest())
                    block = hashlib.blake2b(digest_size=16)
        if whole.hexdigest() != file.digest:
            raise BundleError(
                f"{file.name}: expected the digest {file.digest} that the hub states, got {whole.hexdigest()}. "
                "Try again later, or another mirror (HF_ENDPOINT)."
            )

    def _remember(self, file: str, number: int, digest: bytes) -> None:
        if self._blocks.setdefault((file, number), digest) != digest:
            raise BundleError(
                f"{file}: the bytes from {number * self._block_bytes} on came twice, and were not the same. "
                "Export again with --no-resume, from another mirror (HF_ENDPOINT) or with --keep-source DIR."
            )
