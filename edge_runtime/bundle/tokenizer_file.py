"""tokenizer.json before its library reads it: structure, sizes and patterns. The library neither stops nor is bounded.

It panics at what its authors did not expect, aborts where it asks for more memory than there is, and compiles any
regular expression. So whatever it would meet is looked at here first, and what is left is its own reading of vocabulary
and merges, whose size follows from the model's.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from edge_runtime.base.errors import BundleError
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.tokenizer_parts import KINDS, check_part, expect, flag, number, optional, text
from edge_runtime.telemetry.process import trim_heap

NAME = "tokenizer/tokenizer.json"
MAX_BYTES = 64 << 20
DEFAULT_VOCABULARY = 1 << 18
_BYTES_A_TOKEN, _VALUES_A_TOKEN = 512, 24
_MAX_ADDED, _MAX_ADDED_CHARACTERS = 1 << 16, 1 << 19
_MAX_TOKEN, _MAX_SCORE = 8192, 1e6
_LARGE_BYTES = 1 << 20
_UNIGRAM_CHARACTERS = 32
"""A token of a unigram model on average: the library keeps some hundred bytes for each."""


_passed: set[bytes] = set()
"""Digests of files that passed: the service reads its own twice."""


def most_bytes(vocab_size: int) -> int:
    """Return the most bytes a tokenizer.json may have for a model of V tokens; published ones take 60 to 150 each."""
    return min(MAX_BYTES, (1 << 20) + _BYTES_A_TOKEN * vocab_size)


def read_tokenizer(bundle: Bundle) -> bytes:
    """Return a bundle's tokenizer.json, its structure checked.

    Raises:
        BundleError: it is damaged, or `check_tokenizer` refuses it.
    """
    vocab_size = bundle.manifest.model.vocab_size
    raw = bundle.read_part(bundle.manifest.part(NAME), limit=most_bytes(vocab_size))
    check_tokenizer(raw, vocab_size)
    return raw


def check_tokenizer(raw: bytes, vocab_size: int = DEFAULT_VOCABULARY) -> None:
    """Refuse what its library cannot be trusted with.

    Args:
        raw: the file.
        vocab_size: V of the model; the tokenizer may know more tokens, up to twice as many.

    Raises:
        BundleError: names the part of the file and what was expected of it.
    """
    digest = hashlib.sha256(raw).digest() + vocab_size.to_bytes(8, "little")
    if digest not in _passed:
        _check(raw, vocab_size)
        _passed.add(digest)
        if len(raw) > _LARGE_BYTES:
            trim_heap()  # before its library needs as much again


def _check(raw: bytes, vocab_size: int) -> None:
    where = ""
    try:
        data = _parse(raw, vocab_size)
        for place in KINDS:
            where = f"{place}: "
            check_part(place, data.get(place))
        for where_, check in (("added_tokens", _added), ("truncation", _truncation), ("padding", _padding)):
            where = f"{where_}: "
            check(data.get(where_))
        where = "model: "
        _model(data.get("model"), 2 * vocab_size + 1024)
    except (ValueError, RecursionError) as err:
        raise BundleError(f"{NAME}: {where}{str(err)[:300]}. Export the bundle again.") from err


def _parse(raw: bytes, vocab_size: int) -> dict[str, Any]:
    most = most_bytes(vocab_size)
    expect(len(raw) <= most, f"at most {most} bytes for {vocab_size} tokens, got {len(raw)}")
    # parsing costs some hundred bytes a value
    values = raw.count(b",") + raw.count(b"[") + raw.count(b"{")
    expect(values <= _VALUES_A_TOKEN * vocab_size + (1 << 16), f"fewer values for {vocab_size} tokens, got {values}")
    data = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    expect(isinstance(data, dict), "an object")
    found: dict[str, Any] = data
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Readers differ in which of two values of one key they take."""
    found = dict(pairs)
    expect(len(found) == len(pairs), "every key once")
    return found


def _added(value: Any) -> None:
    tokens = [] if value is None else value
    expect(isinstance(tokens, list) and len(tokens) <= _MAX_ADDED, f"a list of at most {_MAX_ADDED}")
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    characters = 0
    for token in tokens:
        expect(isinstance(token, dict), "objects")
        text(_MAX_TOKEN, 1)(token.get("content"))
        number(0, (1 << 31) - 1)(token.get("id"))
        for name in flags:
            flag(token.get(name, False))
        characters += len(token["content"])
    expect(characters <= _MAX_ADDED_CHARACTERS, f"at most {_MAX_ADDED_CHARACTERS} characters in all")


def _truncation(value: Any) -> None:
    if value is not None:
        expect(isinstance(value, dict), "an object")
        number(1, 1 << 31)(value.get("max_length"))
        number(0, value["max_length"] - 1)(value.get("stride", 0))


def _padding(value: Any) -> None:
    if value is None:
        return
    expect(isinstance(value, dict), "an object")
    strategy = value.get("strategy")
    if isinstance(strategy, dict):
        expect(list(strategy) == ["Fixed"], "a strategy: BatchLongest or Fixed")
        number(0, 1 << 20)(strategy["Fixed"])
    optional(number(1, 1 << 16))(value.get("pad_to_multiple_of"))
    text(_MAX_TOKEN)(value.get("pad_token", ""))


def _model(value: Any, most: int) -> None:
    expect(isinstance(value, dict), "an object")
    kind = value.get("type", "BPE" if "merges" in value else None)
    expect(isinstance(kind, str) and kind in _MODELS, f"one of {', '.join(_MODELS)}, got {str(kind)[:40]!r}")
    _MODELS[kind](value, most)


def _bpe(model: Mapping[str, Any], most: int) -> None:
    _ids(model.get("vocab"), most)
    merges: Any = model.get("merges")
    expect(isinstance(merges, list) and len(merges) <= 8 * most, f"a list of at most {8 * most} merges")
    kinds = set(map(type, merges))
    expect(kinds <= {str} or (kinds == {list} and set(map(len, merges)) == {2}), "merges of two tokens each")
    expect(not model.get("dropout"), "no dropout: the same text must give the same tokens")
    for name in ("unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
        optional(text())(model.get(name))
    for name in ("fuse_unk", "byte_fallback", "ignore_merges"):
        flag(model.get(name, False))


def _word_piece(model: Mapping[str, Any], most: int) -> None:
    _ids(model.get("vocab"), most)
    _known(model)
    text()(model.get("continuing_subword_prefix", ""))
    number(1, 1024)(model.get("max_input_chars_per_word", 100))


def _word_level(model: Mapping[str, Any], most: int) -> None:
    _ids(model.get("vocab"), most)
    _known(model)


def _known(model: Mapping[str, Any]) -> None:
    unknown = model.get("unk_token")
    expect(isinstance(unknown, str) and unknown in model["vocab"], "an unk_token that is in the vocabulary")


def _unigram(model: Mapping[str, Any], most: int) -> None:
    vocab: Any = model.get("vocab")
    expect(isinstance(vocab, list) and 0 < len(vocab) <= most, f"a vocabulary of 1 to {most} tokens")
    characters = 0
    for entry in vocab:
        expect(isinstance(entry, list) and len(entry) == 2, "tokens with their scores")
        token, score = entry
        text(_MAX_TOKEN)(token)
        is_number = isinstance(score, (int, float)) and not isinstance(score, bool)
        expect(is_number and math.isfinite(score) and abs(score) <= _MAX_SCORE, "finite scores")
        characters += len(token)
    expect(characters <= _UNIGRAM_CHARACTERS * (len(vocab) + 128), "shorter tokens")
    optional(number(0, len(vocab) - 1))(model.get("unk_id"))
    flag(model.get("byte_fallback", False))


def _ids(vocab: Any, most: int) -> None:
    expect(isinstance(vocab, dict) and len(vocab) <= most, f"a vocabulary of at most {most} tokens")
    if vocab:
        expect(set(map(type, vocab.values())) == {int}, "whole numbers as ids")
        expect(min(vocab.values()) >= 0 and max(vocab.values()) < most, f"ids from 0 to {most - 1}")
        expect(max(map(len, vocab)) <= _MAX_TOKEN, f"tokens of at most {_MAX_TOKEN} characters")


_MODELS: Mapping[str, Callable[[Mapping[str, Any], int], None]] = {
    "BPE": _bpe, "Unigram": _unigram, "WordPiece": _word_piece, "WordLevel": _word_level
}  # fmt: skip
