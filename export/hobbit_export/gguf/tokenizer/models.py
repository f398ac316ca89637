"""tokenizer.json out of a vocabulary: byte-level byte-pair encoding, and SentencePiece's with scores."""

from __future__ import annotations

from typing import Any

from edge_runtime.base.errors import ConfigError
from hobbit_export.gguf.metadata import Metadata
from hobbit_export.gguf.tokenizer.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from hobbit_export.gguf.tokenizer.vocabulary import (
    ADVICE,
    CONTROL,
    MAX_TOKENS,
    NORMAL,
    PREFIX,
    UNKNOWN,
    USER_DEFINED,
    Vocabulary,
    read_merges,
)

SPACE = "▁"
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def tokenizer_json(metadata: Metadata, vocabulary: Vocabulary) -> dict[str, Any]:
    """Build tokenizer.json.

    Raises:
        ConfigError: the kind of tokenizer, or its pre-tokenizer, is not known; the way out is named.
    """
    kind = metadata.text(f"{PREFIX}model")
    if kind == "gpt2":
        return _byte_level(metadata, vocabulary)
    if kind == "llama":
        return _sentence_piece(metadata, vocabulary)
    if kind == "gemma4":
        return _gemma(metadata, vocabulary)
    raise ConfigError(
        f"{vocabulary.where}: {PREFIX}model: expected 'gpt2', 'llama' or 'gemma4', got {str(kind)[:60]!r}. {ADVICE}"
    )


def _byte_level(metadata: Metadata, vocabulary: Vocabulary) -> dict[str, Any]:
    pre = _pre_tokenizer(metadata)
    model = _model(vocabulary, read_merges(metadata, vocabulary), ignore_merges=pre.whole)
    return _file(
        vocabulary, model,
        normalizer=pre.normalizer, pre_tokenizer=pre.pre_tokenizer, decoder=_BYTE_LEVEL,
        post_processor=_frame(metadata, vocabulary, bos=pre.bos) or _BYTE_LEVEL,
    )  # fmt: skip


def _pre_tokenizer(metadata: Metadata) -> PreTokenizer:
    name = metadata.text(f"{PREFIX}pre")
    if name not in PRE_TOKENIZERS:
        got = "nothing" if name is None else repr(name[:60])
        raise ConfigError(
            f"{metadata.file.name}: {PREFIX}pre: expected a pre-tokenizer that is known, got {got}. Known: "
            f"{', '.join(PRE_TOKENIZERS)}. {ADVICE}"
        )
    return PRE_TOKENIZERS[name]


def _sentence_piece(metadata: Metadata, vocabulary: Vocabulary) -> dict[str, Any]:
    """SentencePiece's byte-pair encoding: of all neighbours the pair is merged whose result scores highest."""
    if metadata.flag(f"{PREFIX}remove_extra_whitespaces"):
        raise ConfigError(f"{vocabulary.where}: {PREFIX}remove_extra_whitespaces: expected false, got true. {ADVICE}")
    model = _model(vocabulary, _merges_by_score(metadata, vocabulary), fuse_unk=True, byte_fallback=True)
    model["unk_token"] = vocabulary.text("unknown") or next((t for _, t in vocabulary.of_types(UNKNOWN)), None)
    prefix = metadata.flag(f"{PREFIX}add_space_prefix") is not False
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    ]  # fmt: skip
    before = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    after = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return _file(
        vocabulary, model,
        normalizer={"type": "Sequence", "normalizers": [*before, spaces]}, pre_tokenizer=None,
        decoder={"type": "Sequence", "decoders": [*back, *after]},
        post_processor=_frame(metadata, vocabulary, bos=True),
    )  # fmt: skip


def _gemma(metadata: Metadata, vocabulary: Vocabulary) -> dict[str, Any]:
    """Byte-pair encoding of texts whose spaces are marked, with merges, and bytes for what has no token."""
    model = _model(vocabulary, read_merges(metadata, vocabulary), fuse_unk=True, byte_fallback=True)
    model["unk_token"] = vocabulary.text("unknown")
    back = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    ]  # fmt: skip
    return _file(
        vocabulary, model,
        normalizer={"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        pre_tokenizer={
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False,
        },
        decoder={"type": "Sequence", "decoders": back},
        post_processor=_frame(metadata, vocabulary, bos=True),
    )  # fmt: skip


def _merges_by_score(metadata: Metadata, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a third, those with the highest scores first.

    Raises:
        ConfigError: there are no scores, or they say nothing, so that the order of merges is lost.
    """
    scores = metadata.numbers(f"{PREFIX}scores", MAX_TOKENS)
    pieces = dict(vocabulary.of_types(NORMAL))
    longer = [i for i, piece in pieces.items() if len(piece) > 1]
    if scores is None or len(scores) != len(vocabulary.tokens):
        raise ConfigError(f"{vocabulary.where}: {PREFIX}scores: expected a score for each token. {ADVICE}")
    if len(longer) > 1 and len({scores[i] for i in longer}) == 1:
        raise ConfigError(
            f"{vocabulary.where}: {PREFIX}scores: all tokens have the same score: the file was made without the "
            f"order of merges. {ADVICE}"
        )
    ids = {piece: i for i, piece in pieces.items()}
    merges = []
    for i in sorted(longer, key=lambda i: (-scores[i], i)):
        piece = pieces[i]
        pairs = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        found = [(ids[a], ids[b], a, b) for a, b in pairs if a in ids and b in ids]
        merges += [(a, b) for _, _, a, b in sorted(found)]
    return merges


def _model(vocabulary: Vocabulary, merges: list[tuple[str, str]], **options: bool) -> dict[str, Any]:
    return {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, **options,
        "vocab": vocabulary.ids(), "merges": merges,
    }  # fmt: skip


def _frame(metadata: Metadata, vocabulary: Vocabulary, *, bos: bool) -> dict[str, Any] | None:
    """The post-processor that puts the bos token before a text and the eos token behind it, where the file says so."""
    wanted = {"bos": metadata.flag(f"{PREFIX}add_bos_token"), "eos": metadata.flag(f"{PREFIX}add_eos_token")}
    wanted["bos"] = bos if wanted["bos"] is None else wanted["bos"]
    tokens = {name: vocabulary.text(name) for name, added in wanted.items() if added}
    used = {name: text for name, text in tokens.items() if text is not None}
    if not used:
        return None

    def around(sequence: str, type_id: int) -> list[dict[str, Any]]:
        parts = [used.get("bos"), None, used.get("eos")]
        of_text = {"Sequence": {"id": sequence, "type_id": type_id}}
        special = [p and {"SpecialToken": {"id": p, "type_id": type_id}} for p in parts]
        return [part for part in (special[0], of_text, special[2]) if part]

    numbers = {text: vocabulary.special[name] for name, text in used.items()}
    return {
        "type": "TemplateProcessing", "single": around("A", 0), "pair": [*around("A", 0), *around("B", 1)],
        "special_tokens": {text: {"id": text, "ids": [i], "tokens": [text]} for text, i in numbers.items()},
    }  # fmt: skip


def _file(vocabulary: Vocabulary, model: dict[str, Any], **parts: Any) -> dict[str, Any]:
    added = [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": vocabulary.types[i] != USER_DEFINED}
        for i, token in vocabulary.of_types(UNKNOWN, CONTROL, USER_DEFINED)
    ]  # fmt: skip
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **parts, "model": model}
