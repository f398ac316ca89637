"""Reads a trace, which is untrusted: its header is checked on opening, each pass when it is read."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from edge_runtime.base.checksum import crc32c
from edge_runtime.base.errors import BundleError
from edge_runtime.bundle.router_data import RouterData
from edge_runtime.lab.simulator.trace_format import (
    ALL_FLAGS,
    BLOCK,
    DONE,
    END,
    MAGIC,
    MAX_HEADER_BYTES,
    MAX_PASS_BYTES,
    PASS,
    PREFIX,
    VERSION,
    VERSIONS,
    TraceHeader,
    TracePass,
    parse_header,
    parse_pass,
    pass_crc,
)
from edge_runtime.lab.simulator.trace_router import recorded_model, router_block_bytes, unpack_router
from edge_runtime.policy.routing import Router, router_of


class Trace:
    """A trace file, untrusted: its header is checked on opening, each pass when it is read.

    Args:
        path: the file.

    Raises:
        BundleError: not a trace, of another version, damaged or truncated; says where.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            with open(self.path, "rb") as file:
                self.header, behind = self._read_header(file)
                size = file.seek(0, os.SEEK_END)
                block = router_block_bytes(self.header.model)
                self._start = behind + block
                if size < self._start + END.size:
                    raise self._bad("expected an end mark, the file is truncated")
                file.seek(behind)
                self._router = self._read_router(file.read(block))
                file.seek(size - END.size)
                self.passes, self._all_tokens, self.tokens = self._read_end(file)
        except OSError as err:
            raise BundleError(f"{self.path}: cannot be read: {err.strerror}.") from err
        expected = self._start + self.passes * BLOCK.size + self._all_tokens * self.header.token_bytes + END.size
        if size != expected:
            raise self._bad(
                f"expected {expected} bytes for {self.passes} passes of {self._all_tokens} tokens, got {size}"
            )

    def router(self) -> Router:
        """Return the model's router, for the logits on record."""
        return router_of(recorded_model(self.header.model), self._router)

    def __iter__(self) -> Iterator[TracePass]:
        """Yield every pass in order; memory is that of one pass."""
        passes = tokens = standing = 0
        rejected: TracePass | None = None
        with open(self.path, "rb") as file:
            file.seek(self._start)
            while passes < self.passes:
                one = self._read_pass(file, passes, self._all_tokens - tokens)
                passes += 1
                tokens += len(one.token_ids)
                self._check_follows(one, rejected, passes - 1)
                rejected = one if one.is_rejected else None
                standing += 0 if one.is_rejected else len(one.token_ids)
                yield one
            if rejected is not None:
                raise self._bad("expected a pass that stands after the last one, which was rejected")
            if (tokens, standing) != (self._all_tokens, self.tokens) or file.read(4) != DONE:
                raise self._bad(f"expected {self._all_tokens} tokens in {self.passes} passes, got {tokens}")

    def _check_follows(self, one: TracePass, rejected: TracePass | None, index: int) -> None:
        """A rejected pass is followed by one that stands, over the same tokens of the same text."""
        if rejected is None:
            return
        same = np.array_equal(one.token_ids, rejected.token_ids)
        if one.is_rejected or one.first_of_text or not same:
            raise self._bad(f"pass {index}: expected the tokens of the pass before it again, which was rejected")

    def _read_header(self, file: IO[bytes]) -> tuple[TraceHeader, int]:
        prefix = file.read(PREFIX.size)
        if len(prefix) != PREFIX.size or not prefix.startswith(MAGIC):
            raise self._bad("expected a trace written by `hobbit trace`, got something else")
        _, version, size, crc = PREFIX.unpack(prefix)
        if version not in VERSIONS:
            raise self._bad(f"expected version 2 or {VERSION}, got {version}. Record it again")
        if size > MAX_HEADER_BYTES:
            raise self._bad(f"header: expected at most {MAX_HEADER_BYTES} bytes, got {size}")
        text = file.read(size)
        if len(text) != size or crc32c(text) != crc:
            raise self._bad("header: checksum does not match (damaged)")
        try:
            return parse_header(text, version), PREFIX.size + size
        except (ValueError, RecursionError) as err:
            raise self._bad(str(err)) from err

    def _read_router(self, raw: bytes) -> RouterData:
        try:
            return unpack_router(self.header.model, raw)
        except ValueError as err:
            raise self._bad(str(err)) from err

    def _read_end(self, file: IO[bytes]) -> tuple[int, int, int]:
        kind, crc, passes, tokens, standing = END.unpack(file.read(END.size))
        if kind != DONE or crc32c(struct.pack("<QQQ", passes, tokens, standing)) != crc:
            raise self._bad("expected an end mark, the file is truncated or was still being written")
        return passes, tokens, standing

    def _read_pass(self, file: IO[bytes], index: int, tokens_left: int) -> TracePass:
        block = file.read(BLOCK.size)
        kind, tokens, flags, crc = BLOCK.unpack(block) if len(block) == BLOCK.size else (b"", 0, 0, 0)
        size = tokens * self.header.token_bytes
        if kind != PASS or not 1 <= tokens <= tokens_left or size > MAX_PASS_BYTES or flags > ALL_FLAGS:
            raise self._bad(f"pass {index}: damaged")
        payload = file.read(size)
        if len(payload) != size or pass_crc(tokens, flags, payload) != crc:
            raise self._bad(f"pass {index}: checksum does not match (damaged)")
        try:
            return parse_pass(self.header, tokens, flags, payload)
        except ValueError as err:
            raise self._bad(f"pass {index}: {err}") from err

    def _bad(self, what: str) -> BundleError:
        return BundleError(f"{self.path}: {what}.")
