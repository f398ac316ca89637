"""Protocol buffers read field by field, strictly: what decoders could take in two ways is refused."""

from __future__ import annotations

from typing import NamedTuple

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: 8, FIXED32: 4}


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        number: of the field.
        kind: wire type.
        raw: its content; empty for a varint.
        value: of a varint, signed 64 bits.
    """

    number: int
    kind: int
    raw: bytes
    value: int


def fields(message: bytes) -> list[Field]:
    """Return every field, in order.

    Raises:
        ValueError: damaged, or a tag or length in an unusual encoding, which decoders need not agree on.
    """
    found: list[Field] = []
    at, end = 0, len(message)
    while at < end:
        tag, value, size = message[at], 0, 0
        at += 1
        if tag >= 128:
            tag, at = _length(message, at - 1)
        kind = tag & 7
        if kind == DELIMITED:
            # nearly always of one byte; opening reads thousands of fields
            size, at = (message[at], at + 1) if at < end and message[at] < 128 else _length(message, at)
        elif kind == VARINT:
            value, at = (message[at], at + 1) if at < end and message[at] < 128 else number(message, at)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise ValueError(f"wire type {kind}")
        stop = at + size
        if tag < 8 or stop > end:
            raise ValueError("a field runs past its message, or has no number")
        found.append(Field(tag >> 3, kind, message[at:stop], value))
        at = stop
    return found


def numbers(field: Field) -> list[int]:
    """Return the integers of a repeated field: one, or as many as are packed in it."""
    if field.kind == VARINT:
        return [field.value]
    if field.kind != DELIMITED:
        raise ValueError(f"expected integers, got wire type {field.kind}")
    found, at = [], 0
    while at < len(field.raw):
        value, at = number(field.raw, at)
        found.append(value)
    return found


def number(message: bytes, at: int) -> tuple[int, int]:
    """Return a varint, signed 64 bits, and where the next byte lies."""
    value = shift = 0
    for end in range(at, min(at + 10, len(message))):
        byte = message[end]
        value |= (byte & 127) << shift
        if byte < 128:
            value &= (1 << 64) - 1
            return value - (value >> 63 << 64), end + 1
        shift += 7
    raise ValueError("a number runs past its message")


def _length(message: bytes, at: int) -> tuple[int, int]:
    """Value of a tag or length and where the next byte lies; only the shortest encoding of below 2^31 will do."""
    value, end = number(message, at)
    if not 0 <= value < 1 << 31 or (end - at > 1 and message[end - 1] == 0):
        raise ValueError("a tag or length in an unusual encoding")
    return value, end
