"""The trace file of docs/trace.md: router logits of every pass of a run, written as it goes, read pass by pass."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.checksum import crc32c
from edge_runtime.base.errors import BundleError
from edge_runtime.base.spec import ModelSpec, check_spec, model_from_version1
from edge_runtime.base.strict import from_mapping
from edge_runtime.bundle.record import BF16, RecordLayout, record_layout

MAGIC = b"HOBTRACE"
VERSION = 3
_VERSIONS = (2, VERSION)
MAX_AHEAD = 16
MAX_HEADER_BYTES = 1 << 20
MAX_PASS_BYTES = 256 << 20
_PREFIX = struct.Struct("<8sIII")  # magic, version, header bytes, their CRC
_BLOCK = struct.Struct("<4sIII")  # kind, tokens, flags, CRC of both and the payload
_END = struct.Struct("<4sIQQQ")  # kind, CRC of the rest, passes, tokens, tokens of passes that stand
_PASS, _DONE = b"PASS", b"DONE"
_FIRST_OF_TEXT, _REJECTED, _PREFETCHING = 1, 2, 4
_ALL_FLAGS = 7


@dataclass(frozen=True)
class TraceHeader:
    """What a trace says about the run it was taken from.

    Attributes:
        model: the model's shape.
        num_segments: progressive segments a record holds.
        tiers: tiers the bundle lets the runtime use, ascending.
        tier: the tier that counted as full.
        logits: number type of the logits; float32 makes a replay exact.
        bundle_id: of the bundle that ran.
        policy: that was in force, with its parameters.
        ahead: predictions of coming layers recorded for each layer; 0: none.
        created_by: program and version.
    """

    model: ModelSpec
    num_segments: int
    tiers: list[int]
    tier: int
    logits: Literal["float32", "float16"]
    bundle_id: str
    policy: str
    created_by: str
    ahead: int = 0

    @property
    def layout(self) -> RecordLayout:
        """Geometry of the model's records."""
        return record_layout(self.model, self.num_segments)

    @property
    def token_bytes(self) -> int:
        """Payload bytes of one token: id, confidence, logits and predictions of every sparse layer."""
        width, experts = 4 if self.logits == "float32" else 2, self.model.num_experts
        return 8 + width * len(self.model.sparse_layers) * (experts + self.ahead * (experts + 1))


class TracePass(NamedTuple):
    """One forward pass.

    Attributes:
        token_ids: int32 [T].
        logits: float32 [layers, T, E], sparse layers in order.
        confidence: float32 [T], largest probability of the model's output after each token; NaN where not computed.
        first_of_text: the KV cache was empty before it.
        predictions: float32 [layers, ahead, T, E + 1]: what was foreseen at each layer for the next ones, nearest
            first: how many experts (0: nothing), then the router's logits as predicted. None: the header has none.
        is_rejected: its result was not accepted; the next pass runs the same tokens again.
        is_prefetching: reading ahead was on.
    """

    token_ids: NDArray[np.int32]
    logits: NDArray[np.float32]
    confidence: NDArray[np.float32]
    first_of_text: bool
    predictions: NDArray[np.float32] | None = None
    is_rejected: bool = False
    is_prefetching: bool = False


class TraceWriter:
    """Writes a trace; complete only after `close` without an error. Use as a context manager.

    Args:
        path: the file to write; replaced if it exists.
        header: what the trace says about the run.
    """

    def __init__(self, path: str | os.PathLike[str], header: TraceHeader) -> None:
        self.header = header
        self._passes = self._tokens = self._standing = 0
        self._path, self._part = Path(path), Path(f"{os.fspath(path)}.part")
        self._file: IO[bytes] = open(self._part, "wb")  # noqa: SIM115 - closed by close()
        text = json.dumps(asdict(header), separators=(",", ":")).encode()
        self._file.write(_PREFIX.pack(MAGIC, VERSION, len(text), crc32c(text)) + text)

    def add(self, one: TracePass) -> None:
        """Append a pass."""
        model = self.header.model
        tokens = len(one.token_ids)
        assert one.logits.shape == (len(model.sparse_layers), tokens, model.num_experts)
        shape = (len(model.sparse_layers), self.header.ahead, tokens, model.num_experts + 1)
        predictions = np.zeros(shape, np.float32) if one.predictions is None else one.predictions
        assert predictions.shape == shape
        kind = "<f4" if self.header.logits == "float32" else "<f2"
        payload = (
            one.token_ids.astype("<i4").tobytes()
            + one.confidence.astype("<f4").tobytes()
            + one.logits.astype(kind).tobytes()
            + predictions.astype(kind).tobytes()
        )
        flags = _FIRST_OF_TEXT * one.first_of_text | _REJECTED * one.is_rejected | _PREFETCHING * one.is_prefetching
        self._file.write(_BLOCK.pack(_PASS, tokens, flags, _pass_crc(tokens, flags, payload)) + payload)
        self._passes += 1
        self._tokens += tokens
        self._standing += 0 if one.is_rejected else tokens

    def close(self) -> None:
        """Write the end mark and put the file in its place."""
        totals = struct.pack("<QQQ", self._passes, self._tokens, self._standing)
        self._file.write(_END.pack(_DONE, crc32c(totals), self._passes, self._tokens, self._standing))
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
                self.header, self._start = self._read_header(file)
                size = file.seek(0, os.SEEK_END)
                if size < self._start + _END.size:
                    raise self._bad("expected an end mark, the file is truncated")
                file.seek(size - _END.size)
                self.passes, self._all_tokens, self.tokens = self._read_end(file)
        except OSError as err:
            raise BundleError(f"{self.path}: cannot be read: {err.strerror}.") from err
        expected = self._start + self.passes * _BLOCK.size + self._all_tokens * self.header.token_bytes + _END.size
        if size != expected:
            raise self._bad(
                f"expected {expected} bytes for {self.passes} passes of {self._all_tokens} tokens, got {size}"
            )

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
            if (tokens, standing) != (self._all_tokens, self.tokens) or file.read(4) != _DONE:
                raise self._bad(f"expected {self._all_tokens} tokens in {self.passes} passes, got {tokens}")

    def _check_follows(self, one: TracePass, rejected: TracePass | None, index: int) -> None:
        """A rejected pass is followed by one that stands, over the same tokens of the same text."""
        if rejected is None:
            return
        same = np.array_equal(one.token_ids, rejected.token_ids)
        if one.is_rejected or one.first_of_text or not same:
            raise self._bad(f"pass {index}: expected the tokens of the pass before it again, which was rejected")

    def _read_header(self, file: IO[bytes]) -> tuple[TraceHeader, int]:
        prefix = file.read(_PREFIX.size)
        if len(prefix) != _PREFIX.size or not prefix.startswith(MAGIC):
            raise self._bad("expected a trace written by `hobbit trace`, got something else")
        _, version, size, crc = _PREFIX.unpack(prefix)
        if version not in _VERSIONS:
            raise self._bad(f"expected version 2 or {VERSION}, got {version}. Record it again")
        if size > MAX_HEADER_BYTES:
            raise self._bad(f"header: expected at most {MAX_HEADER_BYTES} bytes, got {size}")
        text = file.read(size)
        if len(text) != size or crc32c(text) != crc:
            raise self._bad("header: checksum does not match (damaged)")
        try:
            data = json.loads(text)
            if version == 2 and isinstance(data, dict):
                data["model"] = model_from_version1(data.get("model"), "header.model").to_json()
            header = from_mapping(TraceHeader, data, "header")
            check_spec(header.model, "header.model")
            self._check_tiers(header)
            if not 0 <= header.ahead <= MAX_AHEAD:
                raise ValueError(f"header.ahead: expected 0 to {MAX_AHEAD}, got {header.ahead}")
        except (ValueError, RecursionError) as err:
            raise self._bad(str(err)) from err
        return header, _PREFIX.size + size

    @staticmethod
    def _check_tiers(header: TraceHeader) -> None:
        known = {*header.layout.tiers, BF16}
        if not header.tiers or header.tiers != sorted(set(header.tiers)) or not known.issuperset(header.tiers):
            raise ValueError(f"header.tiers: expected some of {sorted(known)}, ascending, got {header.tiers}")
        if header.tier not in header.tiers:
            raise ValueError(f"header.tier: expected one of {header.tiers}, got {header.tier}")

    def _read_end(self, file: IO[bytes]) -> tuple[int, int, int]:
        kind, crc, passes, tokens, standing = _END.unpack(file.read(_END.size))
        if kind != _DONE or crc32c(struct.pack("<QQQ", passes, tokens, standing)) != crc:
            raise self._bad("expected an end mark, the file is truncated or was still being written")
        return passes, tokens, standing

    def _read_pass(self, file: IO[bytes], index: int, tokens_left: int) -> TracePass:
        block = file.read(_BLOCK.size)
        kind, tokens, flags, crc = _BLOCK.unpack(block) if len(block) == _BLOCK.size else (b"", 0, 0, 0)
        size = tokens * self.header.token_bytes
        if kind != _PASS or not 1 <= tokens <= tokens_left or size > MAX_PASS_BYTES or flags > _ALL_FLAGS:
            raise self._bad(f"pass {index}: damaged")
        payload = file.read(size)
        if len(payload) != size or _pass_crc(tokens, flags, payload) != crc:
            raise self._bad(f"pass {index}: checksum does not match (damaged)")
        model = self.header.model
        kind_of_logits = "<f4" if self.header.logits == "float32" else "<f2"
        numbers = np.frombuffer(payload, kind_of_logits, offset=8 * tokens)
        if not np.isfinite(numbers).all():
            raise self._bad(f"pass {index}: expected finite logits")
        layers, experts = len(model.sparse_layers), model.num_experts
        numbers, num_logits = numbers.astype(np.float32), layers * tokens * experts
        logits, ahead = numbers[:num_logits], numbers[num_logits:]
        predictions = ahead.reshape(layers, self.header.ahead, tokens, experts + 1) if self.header.ahead else None
        if predictions is not None and not ((predictions[..., 0] >= 0) & (predictions[..., 0] <= experts)).all():
            raise self._bad(f"pass {index}: expected predictions of 0 to {experts} experts")
        return TracePass(
            np.frombuffer(payload, "<i4", tokens).astype(np.int32),
            logits.reshape(layers, tokens, experts),
            np.frombuffer(payload, "<f4", tokens, 4 * tokens).astype(np.float32),
            bool(flags & _FIRST_OF_TEXT),
            predictions,
            bool(flags & _REJECTED),
            bool(flags & _PREFETCHING),
        )

    def _bad(self, what: str) -> BundleError:
        return BundleError(f"{self.path}: {what}.")


def _pass_crc(tokens: int, flags: int, payload: bytes) -> int:
    return crc32c(payload, crc32c(struct.pack("<II", tokens, flags)))
