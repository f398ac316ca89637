"""A model's tokens as the grammar library sees them: the bytes of each, and which of them are no text.

The library takes every added token for a special one, which no text of a grammar matches. But many added tokens are
plain text: Qwen writes `<tool_call>` as one. So it is given a vocabulary in which only the tokens that decoding leaves
out are special.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from edge_runtime.base.errors import BundleError, DeviceError, is_failure
from edge_runtime.base.extras import install_extra


class _Added(msgspec.Struct):
    id: int
    content: str = ""
    special: bool = False


class _TokenizerFile(msgspec.Struct):
    added_tokens: list[_Added] = []


class LoadedTokens(NamedTuple):
    """A tokenizer as grammars need it.

    Attributes:
        tokens: the library's tokenizer for grammars.
        known: its own reading of the file, which knows special tokens by name.
        eos: tokens that may end a text.
        special: text -> number of tokens that no text of a grammar matches.
    """

    tokens: Any
    known: Any
    eos: tuple[int, ...]
    special: dict[str, int]


def load_tokens(tokenizer_json: bytes, vocab_size: int, eos: Sequence[int], eos_text: str | None) -> LoadedTokens:
    """Load a tokenizer for the grammar library.

    Args:
        tokenizer_json: the bundle's `tokenizer.json`, whose structure was checked. It may know more tokens than
            the model: those can neither be generated nor stand in a grammar.
        vocab_size: V, columns of the logits.
        eos: tokens that may end a text.
        eos_text: name of one more such token; None: there is none.

    Raises:
        BundleError: the library refuses the file.
        DeviceError: the library is not installed.
    """
    try:
        import llguidance
    except ImportError as err:
        raise DeviceError(f"grammar: llguidance cannot be imported: {err}. {install_extra('serve')}") from err
    try:
        text = tokenizer_json.decode("utf-8")
        known = llguidance.LLTokenizer(text)
        # rows that the model has beyond its tokenizer are no text either
        unused = range(known.vocab_size, vocab_size)
        if unused:
            known = llguidance.LLTokenizer(text, n_vocab=vocab_size)
        added = msgspec.json.decode(tokenizer_json, type=_TokenizerFile).added_tokens
        special = sorted({*unused, *(token.id for token in added if token.special and token.id < vocab_size)})
        own = [token.id for token in added if token.content == eos_text and token.id < vocab_size]
        ends = tuple(dict.fromkeys([*eos, *own]))
        wrapper = llguidance.TokenizerWrapper(_Tokens(known, vocab_size, special, ends))
        tokens = llguidance.LLTokenizer(wrapper, n_vocab=vocab_size, eos_token=list(ends) or None)
        named = {token.content: token.id for token in added if token.special and token.id < vocab_size}
        return LoadedTokens(tokens, known, ends, named)
    except BaseException as err:  # it raises what its JSON reader raises, or panics
        if not is_failure(err):
            raise
        raise BundleError(f"tokenizer/tokenizer.json: the grammar library refuses it: {str(err)[:200]}") from err


class _Tokens:
    """What the library asks of a tokenizer that is not its own."""

    def __init__(self, known: Any, vocab_size: int, special: Sequence[int], eos: Sequence[int]) -> None:
        self._known, self._special = known, frozenset(special)
        self.eos_token_id = eos[0] if eos else known.eos_token
        self.bos_token_id = None
        self.special_token_ids = list(special)
        self._size = vocab_size
        self.tokens = [bytes(known.decode_bytes([token_id])) for token_id in range(vocab_size)]

    def __call__(self, text: bytes) -> list[int]:
        """Tokens of a text that a grammar forces. It is always text, even where it spells a special token's name."""
        ids: list[int] = self._known.tokenize_bytes(text)
        if all(token_id < self._size and token_id not in self._special for token_id in ids):
            return ids
        return self._spelt(text)

    def _spelt(self, text: bytes) -> list[int]:
        """Spell a text in ordinary tokens, the longest first."""
        ids: list[int] = []
        while text:
            size = next((n for n in range(min(len(text), self._longest), 0, -1) if text[:n] in self._ordinary), 0)
            if not size:
                return ids  # the library goes on without what cannot be spelt
            ids.append(self._ordinary[text[:size]])
            text = text[size:]
        return ids

    @cached_property
    def _ordinary(self) -> dict[bytes, int]:
        return {token: number for number, token in enumerate(self.tokens) if token and number not in self._special}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._ordinary), default=0)
