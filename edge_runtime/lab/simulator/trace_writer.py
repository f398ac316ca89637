"""Writes a trace as a run goes; the file gets its name when it is complete."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO

from edge_runtime.base.checksum import crc32c
from edge_runtime.bundle.router_data import RouterData
from edge_runtime.lab.simulator.trace_format import DONE, END, MAGIC, PREFIX, VERSION, TraceHeader, TracePass, pack_pass
from edge_runtime.lab.simulator.trace_router import pack_router


class TraceWriter:
    """Writes a trace; complete only after `close` without an error. Use as a context manager.

    Args:
        path: the file to write; replaced if it exists.
        header: what the trace says about the run.
        router: the numbers the model's router needs besides logits.
    """

    def __init__(self, path: str | os.PathLike[str], header: TraceHeader, router: RouterData | None = None) -> None:
        self.header = header
        self._passes = self._tokens = self._standing = 0
        self._path, self._part = Path(path), Path(f"{os.fspath(path)}.part")
        self._file: IO[bytes] = open(self._part, "wb")  # noqa: SIM115 - closed by close()
        values = asdict(header) | {"model": header.model.to_json()}
        if not header.whole_slots:
            del values["whole_slots"]  # programs from before the key read the trace; one that has it they would misread
        text = json.dumps(values, separators=(",", ":")).encode()
        self._file.write(PREFIX.pack(MAGIC, VERSION, len(text), crc32c(text)) + text)
        self._file.write(pack_router(header.model, router or RouterData()))

    def add(self, one: TracePass) -> None:
        """Append a pass."""
        self._file.write(pack_pass(self.header, one))
        tokens = len(one.token_ids)
        self._passes += 1
        self._tokens += tokens
        self._standing += 0 if one.is_rejected else tokens

    def close(self) -> None:
        """Write the end mark and put the file in its place."""
        totals = struct.pack("<QQQ", self._passes, self._tokens, self._standing)
        self._file.write(END.pack(DONE, crc32c(totals), self._passes, self._tokens, self._standing))
        self._file.close()
        self._part.replace(self._path)

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._file.close()
            self._part.unlink(missing_ok=True)
