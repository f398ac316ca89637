"""The vocabulary of a GGUF file, checked: tokens, what kind each is, scores and merges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_runtime.base.errors import ConfigError
from edge_runtime.bundle.tokenizer_file import most_bytes
from hobbit_export.gguf.metadata import MAX_STRINGS, Metadata

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of tokens."""
PREFIX = "tokenizer.ggml."
ADVICE = "Give the model's own tokenizer: --tokenizer DIR, a folder with its tokenizer.json."
_SPECIAL = ("bos", "eos", "eot", "eom", "unknown", "padding")
_ENDS = ("eos", "eot", "eom")
MAX_TOKENS = 1 << 20


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by number.

    Attributes:
        where: the file's name, for messages.
        tokens: their texts; that of a number which no token has is None.
        types: their types.
        special: "bos", "eos", "eot", "eom", "unknown" and "padding" -> number, where the file says so.
    """

    where: str
    tokens: list[str | None]
    types: list[int]
    special: dict[str, int]

    def ids(self) -> dict[str, int]:
        """Return text -> number."""
        return {token: i for i, token in enumerate(self.tokens) if token is not None}

    def of_types(self, *types: int) -> Iterator[tuple[int, str]]:
        """Yield number and text of tokens of some types."""
        for i, token in enumerate(self.tokens):
            if token is not None and self.types[i] in types:
                yield i, token

    def text(self, name: str) -> str | None:
        """Text of a special token, or None."""
        number = self.special.get(name)
        return None if number is None else self.tokens[number]


def special_tokens(metadata: Metadata) -> dict[str, int]:
    """Return the numbers of special tokens that a file names."""
    found = {name: metadata.count(f"{PREFIX}{name}_token_id") for name in _SPECIAL}
    return {name: number for name, number in found.items() if number is not None}


def ends(special: dict[str, int]) -> tuple[int, ...]:
    """Return every token that ends a text, a turn or a message."""
    return tuple(dict.fromkeys(special[name] for name in _ENDS if name in special))


def read_vocabulary(metadata: Metadata, vocab_size: int) -> Vocabulary:
    """Read tokens and their types.

    Args:
        metadata: of the first file.
        vocab_size: rows of the embedding.

    Raises:
        ConfigError: there is none, or it cannot be that of a tokenizer; the key is named.
    """
    where = metadata.file.name
    tokens = metadata.strings(f"{PREFIX}tokens", MAX_TOKENS, most_bytes(vocab_size))
    if tokens is None:
        raise ConfigError(f"{where}: {PREFIX}tokens: expected a vocabulary, got nothing. {ADVICE}")
    if len(tokens) != vocab_size:
        raise ConfigError(
            f"{where}: {PREFIX}tokens: expected {vocab_size}, as the embedding has rows, got {len(tokens)}. {ADVICE}"
        )
    types = metadata.numbers(f"{PREFIX}token_type", MAX_TOKENS) or [NORMAL] * len(tokens)
    if len(types) != len(tokens) or not set(types) <= set(range(NORMAL, BYTE + 1)):
        raise ConfigError(f"{where}: {PREFIX}token_type: expected a type from 1 to 6 for each token. {ADVICE}")
    special = special_tokens(metadata)
    for name, number in special.items():
        if number >= len(tokens):
            raise ConfigError(
                f"{where}: {PREFIX}{name}_token_id: expected a number below {len(tokens)}, got {number}. {ADVICE}"
            )
    named = [None if _is_filler(i, token, types[i]) else token for i, token in enumerate(tokens)]
    vocabulary = Vocabulary(where, named, [int(t) for t in types], special)
    _check_unique(vocabulary)
    return vocabulary


def read_merges(metadata: Metadata, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Read the merges of a byte-pair encoding, first ones first.

    Raises:
        ConfigError: there are none, or one is not of two tokens that make a third.
    """
    where = f"{vocabulary.where}: {PREFIX}merges"
    merges = metadata.strings(f"{PREFIX}merges", MAX_STRINGS, most_bytes(len(vocabulary.tokens)))
    if merges is None and all(len(token) == 1 for _, token in vocabulary.of_types(NORMAL)):
        return []
    if merges is None:
        raise ConfigError(f"{where}: expected merges, got nothing. {ADVICE}")
    known, found = vocabulary.ids(), []
    for i, merge in enumerate(merges):
        middle = merge.find(" ", 1)
        left, right = merge[:middle], merge[middle + 1 :]
        if middle < 0 or left not in known or right not in known or left + right not in known:
            raise ConfigError(
                f"{where}: merge {i + 1}: expected two tokens that make a third, got {merge[:60]!r}. {ADVICE}"
            )
        found.append((left, right))
    return found


def _is_filler(number: int, token: str, kind: float) -> bool:
    """Whether a token was made up where the vocabulary of the model has none."""
    return kind == UNUSED and token == f"[PAD{number}]"


def _check_unique(vocabulary: Vocabulary) -> None:
    seen: dict[str, int] = {}
    for i, token in enumerate(vocabulary.tokens):
        if token is None:
            continue
        if not token or token in seen:
            what = f"{token[:60]!r} is token {seen[token]} and token {i}" if token else f"token {i} is empty"
            raise ConfigError(f"{vocabulary.where}: {PREFIX}tokens: expected different texts, but {what}. {ADVICE}")
        seen[token] = i
