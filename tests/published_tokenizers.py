"""tokenizer.json as published models have it, with the vocabulary cut to single bytes: kinds, fields and patterns.

Written down from those files: Qwen 2 to 3, Llama 3, Mixtral (converted from SentencePiece, twice), Gemma, gpt-oss,
DeepSeek (LLM, Coder, V3), Phi 3.5-MoE and 4, OLMoE, Granite, Ling, Bloom, T5.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
QWEN = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)  # fmt: skip
LLAMA3 = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
CLIP = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
PATTERNS = {
    "Qwen": QWEN, "Llama 3": LLAMA3, "cl100k": CL100K, "o200k": O200K, "DeepSeek V3": DEEPSEEK3, "Bloom": BLOOM,
    "CLIP": CLIP, "digits": r"\p{N}{1,3}", "CJK": "[一-龥぀-ゟ゠-ヿ]+", "letters": r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓ]+",
    "digits from the right": r"\d{1,3}(?=(?:\d{3})*\b)", "GPT-2": r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "digits in threes": r"\A\p{Nd}{1,2}(?=(?:\p{Nd}{3})*\z)|\G\p{Nd}{3}", "long digits": r"\p{Nd}{1,510}",
}  # fmt: skip


def sequence(name: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", name: list(parts)}


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def byte_level(**changes: bool) -> dict[str, Any]:
    flags = {"add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"type": "ByteLevel", **flags, **changes}


def replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def template(token: str, token_id: int) -> dict[str, Any]:
    special = {"SpecialToken": {"id": token, "type_id": 0}}
    a, b = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing", "single": [special, a], "pair": [special, a, special, b],
        "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}},
    }  # fmt: skip


_SENTENCE_DECODER = sequence(
    "decoders", replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
)  # fmt: skip
_METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}


def charsmap() -> str:
    """A table as SentencePiece writes it, which replaces nothing: one block whose root leads nowhere."""
    units = np.zeros(256, "<u4")
    units[0] = 0 ^ 1 << 10
    units[1:] = 0xFF
    return base64.b64encode(units.nbytes.to_bytes(4, "little") + units.tobytes() + b"a\0").decode()


PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen3": {
        "normalizer": {"type": "NFC"}, "pre_tokenizer": sequence("pretokenizers", split(QWEN), byte_level()),
        "post_processor": byte_level(trim_offsets=False), "decoder": byte_level(),
    },
    "Llama 3": {
        "pre_tokenizer": sequence("pretokenizers", split(LLAMA3), byte_level()), "ignore_merges": True,
        "post_processor": sequence("processors", byte_level(), template("<|end|>", 256)), "decoder": byte_level(),
    },
    "Mixtral, first conversion": {
        "normalizer": sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")),
        "post_processor": template("<|end|>", 256), "decoder": _SENTENCE_DECODER, "byte_fallback": True,
    },
    "Mixtral, second conversion": {
        "pre_tokenizer": _METASPACE, "post_processor": template("<|end|>", 256), "decoder": _SENTENCE_DECODER,
        "byte_fallback": True, "fuse_unk": True,
    },
    "Gemma": {
        "normalizer": replace(" ", "▁"), "byte_fallback": True, "fuse_unk": True,
        "pre_tokenizer": {
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False,
        },
        "decoder": sequence("decoders", replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}),
    },
    "gpt-oss": {
        "pre_tokenizer": sequence("pretokenizers", split(O200K), byte_level(trim_offsets=True)),
        "post_processor": byte_level(), "decoder": byte_level(),
    },
    "DeepSeek V3": {
        "normalizer": sequence("normalizers"), "post_processor": byte_level(), "decoder": byte_level(),
        "pre_tokenizer": sequence(
            "pretokenizers", split(PATTERNS["digits"]), split(PATTERNS["CJK"]), split(DEEPSEEK3), byte_level()
        ),
    },
    "DeepSeek Coder": {
        "pre_tokenizer": sequence(
            "pretokenizers", split("[\r\n]"), split(PATTERNS["letters"]), split(r"\s?\p{P}+"),
            {"type": "Digits", "individual_digits": True}, byte_level(),
        ),
        "decoder": byte_level(),
    },
    "Phi-3.5-MoE": {
        "normalizer": sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")),
        "decoder": _SENTENCE_DECODER, "byte_fallback": True,
    },
    "Phi-4": {
        "pre_tokenizer": sequence("pretokenizers", split(CL100K), byte_level()), "post_processor": byte_level(),
        "decoder": byte_level(),
    },
    "OLMoE": {
        "normalizer": {"type": "NFC"}, "pre_tokenizer": byte_level(use_regex=True), "decoder": byte_level(),
        "post_processor": template("<|end|>", 256),
    },
    "Granite": {
        "pre_tokenizer": sequence(
            "pretokenizers", {"type": "Digits", "individual_digits": True}, byte_level(use_regex=True)
        ),
        "decoder": byte_level(),
    },
    "Falcon": {
        "pre_tokenizer": sequence(
            "pretokenizers", {"type": "Punctuation", "behavior": "Contiguous"}, byte_level(),
            {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]"),
        ),
        "decoder": byte_level(),
    },
    "T5": {
        "normalizer": sequence(
            "normalizers", {"type": "Precompiled", "precompiled_charsmap": charsmap()},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
        ),
        "pre_tokenizer": sequence("pretokenizers", {"type": "WhitespaceSplit"}, _METASPACE | {"split": True}),
        "decoder": _METASPACE,
    },
}  # fmt: skip


def tokenizer_json(**changes: Any) -> dict[str, Any]:
    """A byte-level tokenizer of 257 tokens; what belongs to the model goes there."""
    letters = [chr(i) if 33 <= i < 127 or (i > 160 and i != 173) else chr(0x100 + i) for i in range(256)]
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": {letter: i for i, letter in enumerate(letters)}, "merges": [],
    }  # fmt: skip
    mine = {name: changes.pop(name) for name in [*changes] if name in model}
    end = {
        "id": 256, "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
        "special": True,
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [end], "normalizer": None,
        "pre_tokenizer": byte_level(use_regex=True), "post_processor": None, "decoder": byte_level(),
        "model": model | mine, **changes,
    }  # fmt: skip
