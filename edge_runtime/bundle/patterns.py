"""Regular expressions of a tokenizer, before its library compiles them: no pattern without end, none of any size.

The library's engine backtracks. `(a+)+$` takes it for ever, and `((a{1000}){1000})` takes gigabytes to compile. What
published tokenizers use is a small part of its language, and that part is accepted: characters, classes, alternatives,
groups, looking around, and repetition of single characters. The cost at one place of a text is then a polynomial of low
degree.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_CHARACTERS = 16_384
"""Classes that list the letters of all scripts take some thousand."""
_MAX_DEPTH, _MAX_ATOMS, _MAX_REPEATED = 8, 8192, 1024
_MAX_OPEN, _MAX_CHOICES = 3, 12
_FEW = 8
"""Repetitions up to which the number of lengths counts as choices, and exact repetition of any group is allowed."""

_INTERVAL = re.compile(r"\{(\d{1,6})?(,)?(\d{1,6})?\}")
_SIMPLE = {"?": (0, 1), "*": (0, None), "+": (1, None)}
_GROUP = re.compile(r"\((?:\?(?:[imsx]*(?:-[imsx]+)?:|=|!|<=|<!))?")
_PROPERTY = re.compile(r"\\[pP]\{\^?[\w\- ]{1,40}\}")
_CODE = re.compile(r"\\(?:x[0-9A-Fa-f]{2}|x\{[0-9A-Fa-f]{1,6}\}|u[0-9A-Fa-f]{4})")
_POSIX = re.compile(r"\[:\^?[a-z]{1,10}:\]")
_CHARACTERS, _PLACES = "rntfvaehHdDsSwW", "bBAzZG"


class _Cost(NamedTuple):
    """What a part of a pattern takes.

    Attributes:
        least: fewest characters it matches.
        atoms: characters and classes it has once exact repetitions are written out.
        open: repetitions of many lengths on the worst way through it.
        choices: binary choices on the worst way through it.
        is_fixed: matches texts of one length in one way, which is not empty.
    """

    least: int
    atoms: int = 0
    open: int = 0
    choices: int = 0
    is_fixed: bool = False


_CHARACTER, _PLACE = _Cost(1, atoms=1, is_fixed=True), _Cost(0, atoms=1)


def check_pattern(pattern: str, *, may_be_empty: bool = True) -> int:
    """Refuse a pattern whose cost is not bounded, or that uses more of the language than published tokenizers do.

    Args:
        pattern: as the tokenizer's library takes it.
        may_be_empty: whether it may match without taking a character.

    Returns:
        The fewest characters it matches.

    Raises:
        ValueError: what is wrong with it.
    """
    if len(pattern) > MAX_CHARACTERS:
        raise ValueError(f"a pattern of {len(pattern)} characters, the most are {MAX_CHARACTERS}")
    parser = _Parser(pattern)
    cost = parser.alternatives(0)
    if parser.at < len(pattern):
        raise ValueError(f"an unmatched ')' at {parser.at}")
    if cost.least == 0 and not may_be_empty:
        raise ValueError("a pattern that matches no characters")
    return cost.least


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._pattern, self.at = pattern, 0

    def alternatives(self, depth: int) -> _Cost:
        """Read alternatives up to the end of the group."""
        if depth > _MAX_DEPTH:
            raise ValueError(f"groups nested deeper than {_MAX_DEPTH}")
        found = [self._sequence(depth)]
        while self._next() == "|":
            self.at += 1
            found.append(self._sequence(depth))
        if len(found) == 1:
            return found[0]
        ways = (len(found) - 1).bit_length() if depth else 0  # outside groups they are tried one after another
        return _bounded(_Cost(
            min(one.least for one in found),
            sum(one.atoms for one in found),
            max(one.open for one in found),
            max(one.choices for one in found) + ways,
        ))  # fmt: skip

    def _sequence(self, depth: int) -> _Cost:
        least = atoms = open_ = choices = 0
        is_fixed = True
        while self._next() not in ("", "|", ")"):
            one = self._repeated(self._atom(depth))
            least, atoms, open_ = least + one.least, atoms + one.atoms, open_ + one.open
            choices, is_fixed = choices + one.choices, is_fixed and one.is_fixed
        return _bounded(_Cost(least, atoms, open_, choices, is_fixed and least > 0))

    def _atom(self, depth: int) -> _Cost:
        here = self._next()
        if here == "(":
            return self._group(depth)
        if here == "[":
            self._class(0)
            return _CHARACTER
        if here == "\\":
            return self._escape()
        if here in "?*+":
            raise ValueError(f"a repetition of nothing at {self.at}")
        self.at += 1
        return _PLACE if here in "^$" else _CHARACTER

    def _group(self, depth: int) -> _Cost:
        opening = _GROUP.match(self._pattern, self.at)
        assert opening is not None
        text = opening[0]
        self.at = opening.end()
        if self._next() == "?" or "x" in text:
            raise ValueError(f"a group of a kind that tokenizers do not use at {self.at}")
        inner = self.alternatives(depth + 1)
        if self._next() != ")":
            raise ValueError("a group that is not closed")
        self.at += 1
        if not text.endswith(("=", "!")):
            return inner
        if "<" in text and inner.open:
            raise ValueError("a repetition without end in what looks behind")
        return inner._replace(least=0, is_fixed=False)

    def _class(self, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError(f"classes nested deeper than {_MAX_DEPTH}")
        self.at += 2 if self._pattern.startswith("[^", self.at) else 1
        is_first = True
        while (here := self._next()) != "]" or is_first:
            posix = _POSIX.match(self._pattern, self.at) if here == "[" else None
            if here == "":
                raise ValueError("a class that is not closed")
            if posix is not None:
                self.at = posix.end()
            elif here == "[":
                self._class(depth + 1)
            elif here == "\\":
                self._escape(in_class=True)
            else:
                self.at += 1
            is_first = False
        self.at += 1

    def _escape(self, *, in_class: bool = False) -> _Cost:
        known = _PROPERTY.match(self._pattern, self.at) or _CODE.match(self._pattern, self.at)
        if known is not None:
            self.at = known.end()
            return _CHARACTER
        letter = self._pattern[self.at + 1 : self.at + 2]
        is_plain = letter != "" and (not letter.isalnum() or not letter.isascii())
        if not is_plain and letter not in (*_CHARACTERS, *_PLACES):
            raise ValueError(f"an escape that tokenizers do not use: \\{letter}")
        self.at += 2
        return _PLACE if letter in _PLACES and not in_class else _CHARACTER

    def _repeated(self, atom: _Cost) -> _Cost:
        interval = _INTERVAL.match(self._pattern, self.at)
        here = self._next()
        if here in _SIMPLE and here != "":
            low, high = _SIMPLE[here]
            self.at += 1
        elif interval is not None and (interval[1] or interval[3]):
            low = int(interval[1] or 0)
            high = low if not interval[2] else None if interval[3] is None else int(interval[3])
            self.at = interval.end()
        else:
            return atom
        self._suffix(is_interval=here == "{")
        return _times(atom, low, high)

    def _suffix(self, *, is_interval: bool) -> None:
        # behind an interval '+' is no suffix but a second repetition
        if self._next() == "?" or (self._next() == "+" and not is_interval):
            self.at += 1
        again = _INTERVAL.match(self._pattern, self.at)
        if (self._next() != "" and self._next() in "?*+") or (again is not None and (again[1] or again[3])):
            raise ValueError(f"a repetition of a repetition at {self.at}")

    def _next(self) -> str:
        return self._pattern[self.at : self.at + 1]


def _times(atom: _Cost, low: int, high: int | None) -> _Cost:
    """The cost of repeating a part, `high` times at most; None: without end."""
    if atom.least == 0:
        raise ValueError("a repetition of what may match no characters")
    if low > _MAX_REPEATED or (high or 0) > _MAX_REPEATED or (high is not None and high < low):
        raise ValueError(f"a repetition of {low} to {high} times, the most are {_MAX_REPEATED}")
    if high == low:
        if not atom.is_fixed and high > _FEW:
            raise ValueError(f"more than {_FEW} repetitions of a group of varying length")
        least, atoms, open_, choices = (low * number for number in atom[:4])
        return _bounded(_Cost(least, atoms, open_, choices, is_fixed=atom.is_fixed and low > 0))
    if (low, high) == (0, 1):
        return _bounded(atom._replace(least=0, choices=atom.choices + 1, is_fixed=False))
    if not atom.is_fixed:
        raise ValueError("a repetition of a group of varying length or with alternatives")
    few = high is not None and high - low <= _FEW
    most = low + 1 if high is None else high
    ways = 0 if high is None else (high - low).bit_length()
    return _bounded(_Cost(low * atom.least, most * atom.atoms, 0 if few else 1, ways if few else 0))


def _bounded(cost: _Cost) -> _Cost:
    if cost.atoms > _MAX_ATOMS:
        raise ValueError(f"more than {_MAX_ATOMS} characters once repetitions are written out")
    if cost.open > _MAX_OPEN or cost.choices > _MAX_CHOICES:
        raise ValueError("too many repetitions and choices one after another")
    return cost
