"""Answers that can be checked: identifiers of a text completed exactly, and brackets and indents of written Python."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from edge_runtime.base.arrays import Bools

_NAME = re.compile(r"[A-Za-z_]\w{3,}")
_OPENERS = {"(": ")", "[": "]", "{": "}"}
_PART = re.compile(r'"""|\'\'\'|"|\'|#|\\.|[()\[\]{}]|\n|[^"\'#\\()\[\]{}\n]+|.', re.DOTALL)


@dataclass(frozen=True)
class TaskScore:
    """How many of a task's items came out right.

    Attributes:
        items: how many there were.
        correct: share the candidate got right; None without items.
        baseline_correct: share the baseline got right.
    """

    items: int
    correct: float | None
    baseline_correct: float | None

    def to_json(self) -> dict[str, float | int | None]:
        """Return plain data."""
        return asdict(self)


def score(right: Sequence[bool], baseline_right: Sequence[bool]) -> TaskScore:
    """Count the right ones."""
    if not right:
        return TaskScore(0, None, None)
    return TaskScore(len(right), float(np.mean(right)), float(np.mean(baseline_right)))


def repeated_names(pieces: Sequence[str]) -> list[range]:
    """Find identifiers of a text that it has used before: a model that follows the text can complete them.

    Args:
        pieces: the text of each token.

    Returns:
        For each of them, the positions of the tokens it is written with. The first use of a name is not among them.
    """
    text, ends = "".join(pieces), np.cumsum([len(piece) for piece in pieces])
    seen: set[str] = set()
    found = []
    for match in _NAME.finditer(text):
        if match.group() in seen:
            first = int(np.searchsorted(ends, match.start(), side="right"))
            last = int(np.searchsorted(ends, match.end() - 1, side="right"))
            if first > 0:
                found.append(range(first, last + 1))
        seen.add(match.group())
    return found


def completed(names: Sequence[range], is_hit: Bools) -> list[bool]:
    """Whether every token of each name was the model's first choice.

    Args:
        names: positions of tokens.
        is_hit: bool [N], whether the token at a position was predicted by the ones before it.
    """
    return [bool(is_hit[name.start : name.stop].all()) for name in names]


def python_slips(code: str) -> int:
    """Count brackets that close nothing or the wrong one, and lines indented as none around them allows.

    The code may break off anywhere: what is still open at its end, and its last line, are not held against it.
    """
    slips, lines = 0, _blank_strings(code)
    open_brackets: list[str] = []
    indents, may_deepen = [0], False
    for number, line in enumerate(lines):
        is_last, body = number == len(lines) - 1, line.strip()
        if body and not open_brackets and not is_last:
            indent = len(line) - len(line.lstrip())
            slips += _wrong_indent(indent, indents, may_deepen=may_deepen)
        for char in line:
            if char in _OPENERS:
                open_brackets.append(_OPENERS[char])
            elif char in ")]}":
                if open_brackets and open_brackets[-1] == char:
                    open_brackets.pop()
                else:
                    slips += 1
        if body:
            may_deepen = body.endswith(":") and not open_brackets
    return slips


def _wrong_indent(indent: int, indents: list[int], *, may_deepen: bool) -> bool:
    """Follow one logical line; `indents` becomes the blocks open after it."""
    if may_deepen:
        if indent > indents[-1]:
            indents.append(indent)
            return False
        return True
    while indents[-1] > indent:
        indents.pop()
    wrong = indents[-1] != indent
    if wrong:
        indents.append(indent)
    return wrong


def _blank_strings(code: str) -> list[str]:
    """Lines of the code with comments removed and the insides of strings, line ends included, replaced."""
    out, quote = [], ""
    skip_line = False
    for part in _PART.findall(code):
        if skip_line and part != "\n":
            continue
        skip_line = False
        if quote:
            ends = part == quote or (part == "\n" and len(quote) == 1)
            out.append("\n" if part == "\n" and ends else "x")
            quote = "" if ends else quote
        elif part in ('"""', "'''", '"', "'"):
            quote = part
            out.append("x")
        elif part == "#":
            skip_line = True
        else:
            out.append(" " if part.startswith("\\") else part)
    return "".join(out).split("\n")
