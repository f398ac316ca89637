"""The embedding table of a bundle: bfloat16 rows read on demand, so that the table takes no memory of the process."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import BundleError, RequestError


class Embedding:
    """Gathers rows of ``trunk/embed.bin`` (docs/format.md section 4)."""

    def __init__(self, path: Path, vocab_size: int, hidden: int) -> None:
        """Open the table.

        Raises:
            BundleError: it is missing or has the wrong size.
        """
        self._vocab_size = vocab_size
        self._row_bytes = hidden * 2
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as err:
            raise BundleError(f"{path}: cannot be opened: {err.strerror}. Export the bundle again.") from err
        size, expected = os.fstat(self._fd).st_size, vocab_size * self._row_bytes
        if size != expected:
            self.close()
            raise BundleError(f"{path}: expected {expected} bytes, got {size}. Export the bundle again.")

    def gather(self, token_ids: NDArray[np.int32], out: NDArray[np.float32]) -> None:
        """Read the rows of int32 [T] tokens into float32 [T, D].

        Raises:
            RequestError: a token is outside the vocabulary.
            BundleError: the table cannot be read.
        """
        check_tokens(token_ids, self._vocab_size)
        for row, token in zip(out, token_ids.tolist(), strict=True):
            raw = os.pread(self._fd, self._row_bytes, token * self._row_bytes)
            if len(raw) != self._row_bytes:
                raise BundleError(f"trunk/embed.bin: row {token} cannot be read. Export the bundle again.")
            row.view(np.uint32)[:] = np.frombuffer(raw, np.uint16)
        np.left_shift(out.view(np.uint32), 16, out=out.view(np.uint32))

    def close(self) -> None:
        """Close the file; calling again does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def check_tokens(token_ids: NDArray[np.int32], vocab_size: int) -> None:
    """Raise RequestError unless every token is in the vocabulary."""
    bad = token_ids[(token_ids < 0) | (token_ids >= vocab_size)]
    if len(bad):
        raise RequestError(f"token: expected 0 to {vocab_size - 1}, got {int(bad[0])}")
