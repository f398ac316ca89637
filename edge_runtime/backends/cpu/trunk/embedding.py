"""The embedding table of a bundle: rows read on demand, so that the table takes no memory of the process."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from edge_runtime.base.arrays import F32, I32
from edge_runtime.base.errors import BundleError, RequestError
from edge_runtime.bundle.manifest import EmbeddingDtype

STORED: dict[EmbeddingDtype, type[np.generic]] = {"bf16": np.uint16, "fp16": np.float16, "fp32": np.float32}


class Embedding:
    """Gathers rows of ``trunk/embed.bin`` (docs/format.md section 4)."""

    def __init__(
        self, path: Path, vocab_size: int, hidden: int, dtype: EmbeddingDtype = "bf16", scale: float = 1.0
    ) -> None:  # fmt: skip
        """Open the table of V rows of D numbers of the given type; what is gathered is multiplied by `scale`.

        Raises:
            BundleError: it is missing or has the wrong size.
        """
        self._vocab_size = vocab_size
        self._dtype, self._scale = dtype, np.float32(scale)
        self._row_bytes = hidden * STORED[dtype]().itemsize
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as err:
            raise BundleError(f"{path}: cannot be opened: {err.strerror}. Export the bundle again.") from err
        size, expected = os.fstat(self._fd).st_size, vocab_size * self._row_bytes
        if size != expected:
            self.close()
            raise BundleError(f"{path}: expected {expected} bytes, got {size}. Export the bundle again.")

    def gather(self, token_ids: I32, out: F32) -> None:
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
            stored = np.frombuffer(raw, STORED[self._dtype])
            if self._dtype == "bf16":
                row.view(np.uint32)[:] = stored
            else:
                row[:] = stored
        if self._dtype == "bf16":  # the upper half of a float32
            np.left_shift(out.view(np.uint32), 16, out=out.view(np.uint32))
        if self._scale != 1:
            out *= self._scale

    def close(self) -> None:
        """Close the file; calling again does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def check_tokens(token_ids: I32, vocab_size: int) -> None:
    """Raise RequestError unless every token is in the vocabulary."""
    bad = token_ids[(token_ids < 0) | (token_ids >= vocab_size)]
    if len(bad):
        raise RequestError(f"token: expected 0 to {vocab_size - 1}, got {int(bad[0])}")
