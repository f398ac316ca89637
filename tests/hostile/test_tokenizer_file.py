"""tokenizer.json is looked at before its library reads it: published kinds pass, and nothing of what takes the machine."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from bundle_copies import replace_part
from conftest import MODEL
from published_tokenizers import (
    PATTERNS,
    PUBLISHED,
    byte_level,
    charsmap,
    replace,
    sequence,
    split,
    template,
    tokenizer_json,
)

from edge_runtime.__main__ import main
from edge_runtime.base.errors import BundleError
from edge_runtime.bundle.patterns import check_pattern
from edge_runtime.bundle.tokenizer_file import check_tokenizer
from edge_runtime.engine.tokenizer import Tokenizer

TEXT = "import os\n  x = [1234, 'ü漢字'] # Don't\r\n\r\n   end"


def raw(data: Any) -> bytes:
    return json.dumps(data).encode()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_kinds_pass_and_work(name):
    data = tokenizer_json(**PUBLISHED[name])
    check_tokenizer(raw(data), 300)
    tokenizer = Tokenizer({"tokenizer.json": raw(data)}, 300)
    assert len(tokenizer.encode(TEXT)) > 10


def test_the_bundled_models_own_passes():
    check_tokenizer((MODEL / "tokenizer.json").read_bytes(), 4096)


@pytest.mark.parametrize("name", PATTERNS)
def test_published_patterns_pass(name):
    check_pattern(PATTERNS[name])


BAD_PATTERNS = {
    "plus of plus": "(a+)+$",
    "star of star": "(?:x*)*",
    "star of optional": "(a?)*b",
    "star of alternatives": "(a|a)*b",
    "star of overlapping": "(a|ab|b)*c",
    "possessive star of plus": "(a+)*+b",
    "nested counts": "((a{1000}){1000}){1000}",
    "two nested counts": "(a{1000}){1000}",
    "a count of a group": "(a{1,1000}){9}b",
    "one huge count": "a{100000}",
    "a count behind a count": "a{1000}{1000}",
    "plus behind a count": "a{500}+b",
    "optional letters": "a?" * 30 + "a" * 30,
    "five stars": "a*a*a*a*a*b",
    "stars behind each other in groups": "(a*)(a*)(a*)(a*)b",
    "back reference": r"(a+)\1",
    "named reference": r"(?<x>a+)\k<x>",
    "subexpression call": r"(?<x>a\g<x>?b)",
    "conditional": "(?(1)a|b)",
    "absent": "(?~a)",
    "atomic": "(?>a+)",
    "comment": "(?#x)a",
    "free spacing": "(?x:a b)",
    "grapheme clusters": r"\X+",
    "line breaks": r"(?:\R)+",
    "star of a place": r"(?:\b)*a",
    "star of looking ahead": "(?=a)*b",
    "endless looking behind": "(?<=a+)b",
    "deep": "(" * 50 + "a" + ")" * 50,
    "deep classes": "[" * 50 + "a" + "]" * 50,
    "open group": "(a",
    "open class": "[a",
    "closing": "a)",
    "nothing repeated": "*a",
    "long": "a" * 20_000,
    "many groups of choices": "(?:a|b|c|d|e|f|g|h|i)" * 10,
}


@pytest.mark.parametrize("name", BAD_PATTERNS)
def test_patterns_without_end_are_refused(name):
    started = time.perf_counter()
    with pytest.raises(ValueError):  # noqa: PT011 - the words differ
        check_pattern(BAD_PATTERNS[name])
    assert time.perf_counter() - started < 5


GOOD_PATTERNS = {
    "a{2,5}": 2, "a{3}": 3, "(?:ab){2}c": 5, "(ab)*c": 1, "a|bc|": 0, "[]a]b": 2, r"[\]\[a&&[^b]]": 1, r"\u0041\x{1F600}": 2,
    "a{": 2, "a{,}": 4, "[[:alpha:]]+": 1, "(?i:a)b?": 1, r"\pL": 2, r"\p{Han}{1,2}": 1, "(?<=a)b": 1, "(?<!ab)c": 1, "^a$": 1,
    r"(?:a|bc)?d": 1, "a{,3}b": 1, "": 0, r"\Aa\z": 1,
}  # fmt: skip


@pytest.mark.parametrize("pattern", GOOD_PATTERNS)
def test_fewest_characters_of_a_pattern(pattern):
    if pattern == r"\pL":  # not a property without braces here
        with pytest.raises(ValueError, match="escape"):
            check_pattern(pattern)
        return
    assert check_pattern(pattern) == GOOD_PATTERNS[pattern]


def strip(**changes: Any) -> dict[str, Any]:
    return {"type": "Strip", "content": " ", "start": 1, "stop": 0, **changes}


def deep(levels: int) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "NFC"}
    for _ in range(levels):
        part = sequence("normalizers", part)
    return part


def padding(**changes: Any) -> dict[str, Any]:
    return {
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "x", **changes,
    }  # fmt: skip


def truncation(**changes: Any) -> dict[str, Any]:
    return {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0, **changes}


def added(count: int = 1, **changes: Any) -> list[dict[str, Any]]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return [{"id": 257 + i, "content": f"<{i}>", **flags, **changes} for i in range(count)]


UNIGRAM = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]], "byte_fallback": False}
WORD_LEVEL = {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "a": 1}}
WORD_PIECE = {
    "type": "WordPiece", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "a": 1}, "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
}  # fmt: skip
REGEX_A = {"Regex": "a"}

HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "padding of ten thousand million": ({"padding": padding(strategy={"Fixed": 10**10})}, "padding"),
    "padding of a hundred million": ({"padding": padding(strategy={"Fixed": 10**8})}, "padding"),
    "padding to a multiple of zero": ({"padding": padding(pad_to_multiple_of=0)}, "padding"),
    "a strategy of its own": ({"padding": padding(strategy={"Other": 1})}, "padding"),
    "stride beyond the length": ({"truncation": truncation(stride=9)}, "truncation"),
    "stride of the length": ({"truncation": truncation(stride=8)}, "truncation"),
    "truncation to nothing": ({"truncation": truncation(max_length=0)}, "truncation"),
    "pattern without end": ({"pre_tokenizer": split("(a+)+$")}, "pre_tokenizer"),
    "pattern without end in a normalizer": (
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a|a)*b"}, "content": ""}}, "normalizer",
    ),
    "replacement of nothing": ({"normalizer": replace("", "x")}, "normalizer"),
    "replacement of what may be nothing": (
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "a*"}, "content": "x"}}, "normalizer",
    ),
    "replacements that double": (
        {"normalizer": sequence("normalizers", *[replace("a", "aa")] * 30)}, "normalizer",
    ),
    "replacements by long texts": (
        {"normalizer": sequence("normalizers", *[replace("a", "a" * 64)] * 3)}, "normalizer",
    ),
    "a replacement by a huge text": ({"normalizer": replace("a", "a" * 1_000_000)}, "normalizer"),
    "decoders that double": ({"decoder": sequence("decoders", *[replace("a", "aa")] * 30)}, "decoder"),
    "a replacement without a pattern": ({"normalizer": {"type": "Replace", "content": "x"}}, "normalizer"),
    "a replacement without content": ({"decoder": {"type": "Replace", "pattern": {"String": "x"}}}, "decoder"),
    "a replacement of nothing at all": ({"normalizer": sequence("normalizers", {"type": "Replace"})}, "normalizer"),
    "a huge text in front": ({"normalizer": {"type": "Prepend", "prepend": "a" * 100_000}}, "normalizer"),
    "charsmap without bytes": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}, "normalizer"),
    "charsmap of nothing": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": None}}, "normalizer"),
    "charsmap that leads outside": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAQAAP" + "/" * 1362 + "=="}}, "normalizer",
    ),
    "charsmap that is no base64": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "*"}}, "normalizer"),
    "stripping below zero": ({"decoder": strip(stop=3)}, "decoder"),
    "stripping for ever": ({"decoder": strip(start=2**63)}, "decoder"),
    "sequences in sequences": ({"normalizer": deep(100)}, "normalizer"),
    "many parts": ({"normalizer": sequence("normalizers", *[{"type": "NFC"}] * 1000)}, "normalizer"),
    "chunks of no length": ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "pre_tokenizer"),
    "a kind nobody knows": ({"pre_tokenizer": {"type": "Script", "code": "x"}}, "pre_tokenizer"),
    "speech": ({"decoder": {"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": True}}, "decoder"),
    "a template without its token": ({"post_processor": template("<|end|>", 256) | {"special_tokens": []}}, "post_proc"),
    "a template of many": (
        {"post_processor": template("<|end|>", 256) | {"single": template("<|end|>", 256)["single"] * 1000}}, "post_proc",
    ),
    "a token of a thousand ids": (
        {"post_processor": template("x", 1) | {"special_tokens": {"x": {"id": "x", "ids": [1] * 1000, "tokens": ["x"]}}}},
        "post_proc",
    ),
    "added without text": ({"added_tokens": added(content="")}, "added_tokens"),
    "added with a negative id": ({"added_tokens": added(id=-1)}, "added_tokens"),
    "added with huge texts": ({"added_tokens": added(80, content="x" * 8000)}, "added_tokens"),
    "an id far beyond": ({"vocab": {"a": 2**32 - 1}}, "model"),
    "an id of 10^400": ({"vocab": {"a": 10**400}}, "model"),
    "an id that is a fraction": ({"vocab": {"a": 0.5}}, "model"),
    "dropout": ({"dropout": 0.5}, "model"),
    "merges of three": ({"merges": [["a", "b", "c"]]}, "model"),
    "merges that are numbers": ({"merges": [1, 2]}, "model"),
    "a long token": ({"vocab": {"a" * 10_000: 0}}, "model"),
    "words without unknown": ({"model": WORD_LEVEL | {"unk_token": "none"}}, "model"),
    "pieces without unknown": ({"model": WORD_PIECE | {"unk_token": None}}, "model"),
    "words of any length": ({"model": WORD_PIECE | {"max_input_chars_per_word": 10**9}}, "model"),
    "an unknown beyond the vocabulary": ({"model": UNIGRAM | {"unk_id": 5}}, "model"),
    "scores without end": ({"model": UNIGRAM | {"vocab": [["a", 1e308]]}}, "model"),
    "no pieces": ({"model": UNIGRAM | {"vocab": []}}, "model"),
    "a trie of gigabytes": (
        {"model": UNIGRAM | {"vocab": [[f"{i:03}" * 600, 0.0] for i in range(300)]}}, "model",
    ),
    "a model nobody knows": ({"model": {"type": "Neural"}}, "model"),
    "no model": ({"model": None}, "model"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_the_library_cannot_be_trusted_with_is_refused_by_name(name):
    changes, where = HOSTILE[name]
    with pytest.raises(BundleError, match=rf"tokenizer/tokenizer\.json: {where}") as caught:
        Tokenizer({"tokenizer.json": raw(tokenizer_json(**changes))}, 300)
    assert len(str(caught.value)) < 500


GOOD: dict[str, dict[str, Any]] = {
    "padding": {"padding": padding(strategy={"Fixed": 64})},
    "truncation": {"truncation": truncation(stride=2)},
    "words": {"model": WORD_LEVEL},
    "pieces": {"model": WORD_PIECE},
    "unigram": {"model": UNIGRAM},
    "a table of replacements": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap()}},
    "old merges": {"merges": ["a b"], "vocab": {"a": 0, "b": 1, "ab": 2}},
    "many added": {"added_tokens": added(200)},
}


@pytest.mark.parametrize("name", GOOD)
def test_their_harmless_siblings_work(name):
    tokenizer = Tokenizer({"tokenizer.json": raw(tokenizer_json(**GOOD[name]))}, 300)
    assert tokenizer.encode("a b") != []
    assert len(tokenizer.encode("ab" * 40, add_special_tokens=False)) <= 80


SIZES = {
    "empty": b"",
    "no JSON": b"\x00\x01",
    "no UTF-8": b'{"a": "\xff"}',
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "millions of lists": b"[" + b"[]," * 400_000 + b"[]]",
    "larger than the model": b" " * (2 << 20),
    "a key twice": raw(tokenizer_json())[:-1] + b', "normalizer": {"type": "NFC"}}',
    "a key twice, deep": raw(tokenizer_json()).replace(b'"dropout": null', b'"dropout": null, "dropout": 0.5'),
    "a token twice": raw(tokenizer_json()).replace(b'"merges": []', b'"merges": [], "vocab": {}'),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_file_is_bounded_before_it_is_parsed(name):
    with pytest.raises(BundleError, match=r"tokenizer/tokenizer\.json: "):
        check_tokenizer(SIZES[name], 300)


def test_what_the_library_raises_while_it_encodes_is_an_error_of_the_bundle():
    """A byte that the vocabulary lacks, and no token for what is unknown."""
    tokenizer = Tokenizer({"tokenizer.json": raw(tokenizer_json(model=UNIGRAM | {"unk_id": None}))}, 300)
    assert tokenizer.encode("a") != []
    with pytest.raises(BundleError, match=r"tokenizer\.json: cannot encode a text"):
        tokenizer.encode("z")


@pytest.mark.parametrize("verb", [["run", "--prompt", "a"], ["plan"], ["chat"]])
def test_commands_refuse_it_with_78(bundle, capsys, verb):
    hostile = tokenizer_json(pre_tokenizer=split("(a+)+$"))
    replace_part(bundle, "tokenizer/tokenizer.json", raw(hostile))
    assert main([verb[0], str(bundle), *verb[1:], "--memory", "1GiB", "--context", "64"]) == 78
    err = capsys.readouterr().err
    assert "tokenizer/tokenizer.json: pre_tokenizer: Split.pattern" in err
    assert "Traceback" not in err


def test_byte_level_parts_of_every_place_are_known():
    for place in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        check_tokenizer(raw(tokenizer_json(**{place: byte_level()})), 300)
