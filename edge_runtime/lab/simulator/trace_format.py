"""The trace file of docs/trace.md: what its header and passes hold, and how they lie in the file."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from edge_runtime.base.arrays import F32, I32
from edge_runtime.base.checksum import crc32c
from edge_runtime.base.spec import ModelSpec, check_spec
from edge_runtime.base.strict import from_mapping
from edge_runtime.bundle.record import BF16, RecordLayout, record_layout

MAGIC = b"HOBTRACE"
VERSION = 3
VERSIONS = (2, VERSION)
MAX_AHEAD = 16
MAX_HEADER_BYTES = 1 << 20
MAX_PASS_BYTES = 256 << 20
PREFIX = struct.Struct("<8sIII")
"""Magic, version, header bytes, their CRC."""
BLOCK = struct.Struct("<4sIII")
"""Kind, tokens, flags, CRC of both and the payload."""
END = struct.Struct("<4sIQQQ")
"""Kind, CRC of the rest, passes, tokens, tokens of passes that stand."""
PASS, DONE = b"PASS", b"DONE"
FIRST_OF_TEXT, REJECTED, PREFETCHING = 1, 2, 4
ALL_FLAGS = 7


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
        predicted: what the predictor's routings hold: logits of routers, or how often experts were chosen.
        created_by: program and version.
        routing: what the logits hold: all of what the router said, or only the chosen experts and their weights, or
            only who was chosen (recordings of other programs).
        whole_slots: every expert took the memory of the full tier, whatever tier it was at: the backend's memory does
            not give back pages.
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
    predicted: Literal["logits", "shares"] = "logits"
    routing: Literal["logits", "weights", "choice"] = "logits"
    whole_slots: bool = False

    @property
    def layout(self) -> RecordLayout:
        """Geometry of the model's records."""
        return record_layout(self.model, self.num_segments)

    @property
    def token_bytes(self) -> int:
        """Payload bytes of one token: id, confidence, logits and predictions of every sparse layer."""
        width, experts = np.dtype(self.number_type).itemsize, self.model.num_experts
        return 8 + width * len(self.model.sparse_layers) * (experts + self.ahead * (experts + 1))

    @property
    def number_type(self) -> str:
        """Type of logits and predictions in the file, as numpy writes it."""
        return "<f4" if self.logits == "float32" else "<f2"


class TracePass(NamedTuple):
    """One forward pass.

    Attributes:
        token_ids: int32 [T].
        logits: float32 [layers, T, E], sparse layers in order.
        confidence: float32 [T], largest probability of the model's output after each token; NaN where not computed.
        first_of_text: the KV cache was empty before it.
        predictions: float32 [layers, ahead, T, E + 1]: what was predicted at each layer for the next ones, nearest
            first: how many experts (0: nothing), then the router's logits as predicted. Behind the last layer comes
            what was predicted for the first one when the pass began. None: the header has none.
        is_rejected: its result was not accepted; the next pass runs the same tokens again.
        is_prefetching: reading ahead was on.
    """

    token_ids: I32
    logits: F32
    confidence: F32
    first_of_text: bool
    predictions: F32 | None = None
    is_rejected: bool = False
    is_prefetching: bool = False


def parse_header(text: bytes, version: int) -> TraceHeader:
    """Return the header that JSON of a file of a known version holds.

    Raises:
        ValueError: it is not what a header may be; says where.
        RecursionError: it is nested without end.
    """
    data = json.loads(text)
    if version == 2 and isinstance(data, dict):
        from edge_runtime.base.spec.version1 import model_from_version1

        data["model"] = model_from_version1(data.get("model"), "header.model").to_json()
    header = from_mapping(TraceHeader, data, "header")
    check_spec(header.model, "header.model")
    known = {*header.layout.tiers, BF16}
    if not header.tiers or header.tiers != sorted(set(header.tiers)) or not known.issuperset(header.tiers):
        raise ValueError(f"header.tiers: expected some of {sorted(known)}, ascending, got {header.tiers}")
    if header.tier not in header.tiers:
        raise ValueError(f"header.tier: expected one of {header.tiers}, got {header.tier}")
    if not 0 <= header.ahead <= MAX_AHEAD:
        raise ValueError(f"header.ahead: expected 0 to {MAX_AHEAD}, got {header.ahead}")
    return header


def pack_pass(header: TraceHeader, one: TracePass) -> bytes:
    """Return the block of a pass."""
    model, tokens, numbers = header.model, len(one.token_ids), header.number_type
    assert one.logits.shape == (len(model.sparse_layers), tokens, model.num_experts)
    shape = (len(model.sparse_layers), header.ahead, tokens, model.num_experts + 1)
    predictions = np.zeros(shape, np.float32) if one.predictions is None else one.predictions
    assert predictions.shape == shape
    payload = (
        one.token_ids.astype("<i4").tobytes()
        + one.confidence.astype("<f4").tobytes()
        + one.logits.astype(numbers).tobytes()
        + predictions.astype(numbers).tobytes()
    )
    flags = FIRST_OF_TEXT * one.first_of_text | REJECTED * one.is_rejected | PREFETCHING * one.is_prefetching
    return BLOCK.pack(PASS, tokens, flags, pass_crc(tokens, flags, payload)) + payload


def parse_pass(header: TraceHeader, tokens: int, flags: int, payload: bytes) -> TracePass:
    """Return the pass that a payload of the right size holds.

    Raises:
        ValueError: it holds numbers that cannot be; says what was expected.
    """
    numbers = np.frombuffer(payload, header.number_type, offset=8 * tokens)
    if not np.isfinite(numbers).all():
        raise ValueError("expected finite logits")
    layers, experts = len(header.model.sparse_layers), header.model.num_experts
    numbers, num_logits = numbers.astype(np.float32), layers * tokens * experts
    logits, ahead = numbers[:num_logits], numbers[num_logits:]
    predictions = ahead.reshape(layers, header.ahead, tokens, experts + 1) if header.ahead else None
    if predictions is not None and not ((predictions[..., 0] >= 0) & (predictions[..., 0] <= experts)).all():
        raise ValueError(f"expected predictions of 0 to {experts} experts")
    token_ids = np.frombuffer(payload, "<i4", tokens).astype(np.int32)
    if not ((token_ids >= 0) & (token_ids < header.model.vocab_size)).all():
        raise ValueError(f"expected tokens below {header.model.vocab_size}")
    return TracePass(
        token_ids,
        logits.reshape(layers, tokens, experts),
        np.frombuffer(payload, "<f4", tokens, 4 * tokens).astype(np.float32),
        bool(flags & FIRST_OF_TEXT),
        predictions,
        bool(flags & REJECTED),
        bool(flags & PREFETCHING),
    )


def pass_crc(tokens: int, flags: int, payload: bytes) -> int:
    """CRC-32C of a pass: of its number of tokens, its flags and its payload."""
    return crc32c(payload, crc32c(struct.pack("<II", tokens, flags)))
