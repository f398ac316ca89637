"""Values as Gemma and LFM2 write them in calls: JSON but for a few words, and how strings and keys are marked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MOST_DEPTH = 64
_NUMBER = re.compile(r"-?\d{1,40}(?:\.\d{1,40})?(?:[eE][+-]?\d{1,4})?")
_WORD = re.compile(r"[A-Za-z]+")
_BARE_KEY = re.compile(r"[^\s{}\[\]():=,\"'<>]{1,256}")
_SPACE = re.compile(r"\s*")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\n": ""}
WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}


@dataclass(frozen=True)
class Style:
    """How values are written.

    Attributes:
        quote: mark around strings, between which nothing is escaped; "": strings are JSON's.
        words: of true, false and null.
        comma: between members.
        colon: behind a key of an object.
        has_bare_keys: keys of objects are not quoted.
    """

    quote: str
    words: tuple[str, str, str]
    comma: str
    colon: str
    has_bare_keys: bool


class Reader:
    """Reads values one after the other; every method raises ValueError where there is none."""

    def __init__(self, text: str, style: Style) -> None:
        self._text, self._style = text, style
        self.at = 0

    def takes(self, mark: str) -> bool:
        """Go past white space and a mark, if it is next."""
        self.at = self._past_space()
        if not self._text.startswith(mark, self.at):
            return False
        self.at += len(mark)
        return True

    def expect(self, mark: str) -> None:
        """Go past a mark."""
        if not self.takes(mark):
            raise ValueError(f"expected {mark}")

    def is_over(self) -> bool:
        """Whether nothing but white space follows."""
        return self._past_space() == len(self._text)

    def name(self) -> str:
        """Read a bare word, such as a function's name."""
        return self._match(_BARE_KEY)

    def members(self, between: str, end: str, depth: int = 0) -> dict[str, Any]:
        """Read keys and values up to a mark, separated by commas.

        Args:
            between: stands between key and value.
            end: the mark.
            depth: of what is read.
        """
        found: dict[str, Any] = {}
        while not self.takes(end):
            if found:
                self.expect(",")
            key = self._string() if self._starts_string() else self.name()
            self.expect(between)
            found[key] = self.value(depth)
        return found

    def value(self, depth: int = 0) -> Any:
        """Read a value."""
        if depth > _MOST_DEPTH:
            raise ValueError("nested too deeply")
        if self._starts_string():
            return self._string()
        if self.takes("{"):
            return self.members(":", "}", depth + 1)
        if self.takes("["):
            return self._items(depth + 1)
        self.at = self._past_space()
        if _NUMBER.match(self._text, self.at):
            return json.loads(self._match(_NUMBER))
        return WORDS[self._word()]

    def _items(self, depth: int) -> list[Any]:
        found: list[Any] = []
        while not self.takes("]"):
            if found:
                self.expect(",")
            found.append(self.value(depth))
        return found

    def _word(self) -> str:
        word = self._match(_WORD)
        if word not in WORDS:
            raise ValueError(f"{word} is no value")
        return word

    def _starts_string(self) -> bool:
        self.at = self._past_space()
        quote = self._style.quote
        return self._text[self.at : self.at + 1] in ('"', "'") or bool(quote and self._text.startswith(quote, self.at))

    def _string(self) -> str:
        quote = self._style.quote
        if quote and self._text.startswith(quote, self.at):
            end = self._text.index(quote, self.at + len(quote))
            found = self._text[self.at + len(quote) : end]
            self.at = end + len(quote)
            return found
        return self._quoted(self._text[self.at])

    def _quoted(self, mark: str) -> str:
        """Read a string of JSON, or of Python in single quotes."""
        if mark == '"':
            found, self.at = json.JSONDecoder(strict=False).raw_decode(self._text, self.at)
            return str(found)
        end = self.at + 1
        while (end := self._text.index(mark, end)) and _backslashes(self._text, end) % 2:
            end += 1
        raw, self.at = self._text[self.at + 1 : end], end + 1
        return _ESCAPED.sub(lambda escaped: _ESCAPES.get(escaped[1], escaped[1]), raw)

    def _match(self, pattern: re.Pattern[str]) -> str:
        self.at = self._past_space()
        found = pattern.match(self._text, self.at)
        if found is None:
            raise ValueError(f"expected {pattern.pattern}")
        self.at = found.end()
        return found[0]

    def _past_space(self) -> int:
        found = _SPACE.match(self._text, self.at)
        return self.at if found is None else found.end()


def _backslashes(text: str, end: int) -> int:
    """How many stand before a character."""
    return end - len(text[:end].rstrip("\\"))


def as_text_where_asked(arguments: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments with text where a schema asks for text and the model wrote a bare number or word."""
    found = dict(arguments)
    for key, value in arguments.items():
        schema = known.get(key)
        if isinstance(schema, Mapping) and schema.get("type") == "string" and not isinstance(value, str):
            found[key] = json.dumps(value)
    return found
