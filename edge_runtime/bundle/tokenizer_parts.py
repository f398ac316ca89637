"""The parts a tokenizer may have: kinds of normalizers, pre-tokenizers, decoders and post-processors, and their fields.

An allow-list. What published tokenizers of decoders use is on it; what the library knows besides is refused by name.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edge_runtime.bundle.patterns import check_pattern

Check = Callable[[Any], None]
Fields = Mapping[str, Check]
_MAX_PARTS, _MAX_DEPTH = 32, 4
_MAX_GROWTH = 64
"""Times that replacements, one after another, may lengthen a text."""


def expect(is_so: bool, what: str) -> None:
    """Raise ValueError unless something expected is so."""
    if not is_so:
        raise ValueError(f"expected {what}")


def text(most: int = 64, least: int = 0) -> Check:
    """A string of some length."""

    def check(value: Any) -> None:
        expect(isinstance(value, str) and least <= len(value) <= most, f"{least} to {most} characters")

    return check


def number(low: int, high: int) -> Check:
    """A whole number."""

    def check(value: Any) -> None:
        is_int = isinstance(value, int) and not isinstance(value, bool)
        expect(is_int and low <= value <= high, f"a whole number from {low} to {high}")

    return check


def one_of(*values: str) -> Check:
    """One of some words."""
    return lambda value: expect(isinstance(value, str) and value in values, f"one of {', '.join(values)}")


def optional(check: Check) -> Check:
    """None, or what another check takes."""
    return lambda value: None if value is None else check(value)


def flag(value: Any) -> None:
    """True or false."""
    expect(isinstance(value, bool), "true or false")


def pattern(value: Any) -> None:
    """A string or a regular expression, in which nothing is without end."""
    pattern_least(value, may_be_empty=True)


def pattern_least(value: Any, *, may_be_empty: bool = False) -> int:
    """Check a pattern and return the fewest characters it matches."""
    expect(isinstance(value, dict) and len(value) == 1, "a pattern: String or Regex")
    kind, written = next(iter(value.items()))
    one_of("String", "Regex")(kind)
    text(16_384)(written)
    if kind == "Regex":
        return check_pattern(written, may_be_empty=may_be_empty)
    expect(may_be_empty or written != "", "a pattern that is not empty")
    return len(written)


def charsmap(value: Any) -> None:
    """SentencePiece's table of replacements: a double array of places, then the texts they name."""
    expect(isinstance(value, str) and len(value) <= 4 << 20, "base64 of at most 4 MiB")
    try:
        raw = base64.b64decode(value, validate=True)
    except binascii.Error as err:
        raise ValueError("expected base64") from err
    size = int.from_bytes(raw[:4], "little")
    expect(len(raw) >= 4 and size % 1024 == 0 and 0 < size <= len(raw) - 4, "a table of whole blocks")
    units, texts = np.frombuffer(raw, "<u4", size // 4, 4), raw[4 + size :]
    texts.decode("utf-8")  # a UnicodeDecodeError is a ValueError
    inner = np.flatnonzero(units >> 31 == 0)
    nodes = units[inner]
    offsets = (nodes >> 10) << ((nodes & (1 << 9)) >> 6)
    expect(bool((inner ^ offsets < len(units)).all()), "places inside the table")
    values = units[(inner ^ offsets)[nodes >> 8 & 1 == 1]] & 0x7FFF_FFFF
    starts = np.frombuffer(texts + b"\0", np.uint8)
    expect(bool((values < len(starts)).all() and (starts[values] & 0xC0 != 0x80).all()), "texts inside the table")


_NO: Fields = {}
_BEHAVIORS = one_of("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
_BYTE_LEVEL: Fields = {"add_prefix_space": flag, "trim_offsets": flag, "use_regex": flag}
_METASPACE: Fields = {
    "replacement": text(1, 1), "str_rep": text(4), "add_prefix_space": flag, "split": flag,
    "prepend_scheme": one_of("always", "never", "first"),
}  # fmt: skip
_REPLACE: Fields = {"pattern": pattern_least, "content": text()}  # type: ignore[dict-item]


def _token(value: Any) -> None:
    """A special token of a post-processor: its text and its id."""
    expect(isinstance(value, list) and len(value) == 2, "a token and its id")
    text(256)(value[0])
    number(0, 1 << 31)(value[1])


def _template(value: Any) -> None:
    expect(isinstance(value, list) and len(value) <= _MAX_PARTS, f"a list of at most {_MAX_PARTS} parts")
    for part in value:
        expect(isinstance(part, dict) and len(part) == 1, "a part")
        kind, fields = next(iter(part.items()))
        one_of("Sequence", "SpecialToken")(kind)
        expect(isinstance(fields, dict), "a part")
        text(256)(fields.get("id"))
        number(0, 1 << 16)(fields.get("type_id", 0))


def _special_tokens(value: Any) -> None:
    expect(isinstance(value, dict) and len(value) <= _MAX_PARTS, f"at most {_MAX_PARTS} tokens")
    for token in value.values():
        expect(isinstance(token, dict), "a token")
        for name, check in (("ids", number(0, 1 << 31)), ("tokens", text(256))):
            listed = token.get(name)
            expect(isinstance(listed, list) and len(listed) <= _MAX_PARTS, f"{name}: at most {_MAX_PARTS}")
            for each in listed:
                check(each)


KINDS: Mapping[str, Mapping[str, Fields]] = {
    "normalizer": {
        **dict.fromkeys(("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "ByteLevel"), _NO),
        "BertNormalizer": {
            "clean_text": flag, "handle_chinese_chars": flag, "strip_accents": optional(flag), "lowercase": flag,
        },
        "Strip": {"strip_left": flag, "strip_right": flag},
        "Prepend": {"prepend": text()},
        "Replace": _REPLACE,
        "Precompiled": {"precompiled_charsmap": charsmap},
    },
    "pre_tokenizer": {
        **dict.fromkeys(("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "UnicodeScripts"), _NO),
        "ByteLevel": _BYTE_LEVEL,
        "Metaspace": _METASPACE,
        "Split": {"pattern": pattern, "behavior": _BEHAVIORS, "invert": flag},
        "Punctuation": {"behavior": _BEHAVIORS},
        "Digits": {"individual_digits": flag},
        "CharDelimiterSplit": {"delimiter": text(1, 1)},
    },
    "decoder": {
        **dict.fromkeys(("ByteFallback", "Fuse"), _NO),
        "ByteLevel": _BYTE_LEVEL,
        "Metaspace": _METASPACE,
        "WordPiece": {"prefix": text(), "cleanup": flag},
        "BPEDecoder": {"suffix": text()},
        "Replace": _REPLACE,
        # at the end it would count below zero in a token that is nothing else
        "Strip": {"content": text(1, 1), "start": number(0, 64), "stop": number(0, 0)},
    },
    "post_processor": {
        "ByteLevel": _BYTE_LEVEL,
        "BertProcessing": {"sep": _token, "cls": _token},
        "RobertaProcessing": {"sep": _token, "cls": _token, "trim_offsets": flag, "add_prefix_space": flag},
        "TemplateProcessing": {"single": _template, "pair": _template, "special_tokens": _special_tokens},
    },
}  # fmt: skip
_SEQUENCES = {
    "normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders", "post_processor": "processors"
}  # fmt: skip


def check_part(place: str, value: Any) -> None:
    """Check one of the four parts, which may be absent or a sequence of parts.

    Args:
        place: a key of `KINDS`.
        value: parsed JSON.

    Raises:
        ValueError: names the kind and the field.
    """
    parts = list(_flat(place, value, 0)) if value is not None else []
    expect(len(parts) <= _MAX_PARTS, f"at most {_MAX_PARTS} parts, got {len(parts)}")
    for part in parts:
        if part["type"] == "Replace":
            expect({"pattern", "content"} <= part.keys(), "Replace: a pattern and its content")
        for name, check in KINDS[place][part["type"]].items():
            if name in part:
                _within(f"{part['type']}.{name}", check, part[name])
    growth = 1
    for part in parts:
        if part["type"] == "Replace":
            growth *= max(1, len(part["content"]) // max(1, pattern_least(part["pattern"])))
    expect(growth <= _MAX_GROWTH, f"replacements that lengthen a text at most {_MAX_GROWTH} times")


def _flat(place: str, value: Any, depth: int) -> Sequence[dict[str, Any]]:
    """Return the parts of a part, sequences taken apart."""
    expect(isinstance(value, dict), "an object")
    kind = value.get("type")
    if kind == "Sequence":
        expect(depth < _MAX_DEPTH, f"sequences nested at most {_MAX_DEPTH} deep")
        inner = value.get(_SEQUENCES[place])
        expect(isinstance(inner, list) and len(inner) <= _MAX_PARTS, f"a list of at most {_MAX_PARTS} parts")
        return [part for each in inner for part in _flat(place, each, depth + 1)]
    known = KINDS[place]
    expect(isinstance(kind, str) and kind in known, f"one of {', '.join(sorted(known))}, got {str(kind)[:40]!r}")
    return [value]


def _within(name: str, check: Check, value: Any) -> None:
    try:
        check(value)
    except ValueError as err:
        raise ValueError(f"{name}: {err}") from err
