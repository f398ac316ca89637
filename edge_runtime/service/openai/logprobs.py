"""Log probabilities of an answer's tokens: kept in 12 bytes each, and made into objects when they are sent.

As objects those of a long answer with 20 alternatives take hundreds of megabytes.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from edge_runtime.engine.job import TokenLogprob

MAX_LOGPROBS = 1 << 20
"""Log probabilities of one request, alternatives included."""
_PART_BYTES = 1 << 16


_LEAST = -9999.0


class Row(NamedTuple):
    """A token, its log probability (None: nothing stands before it), and the likeliest in its place."""

    token_id: int
    logprob: float | None
    top: Sequence[TokenLogprob] = ()


class LogprobTable:
    """Rows in their order."""

    def __init__(self) -> None:
        self._ids, self._values, self._ends = array("i"), array("d"), array("q")
        self._has_first = True

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._ends)

    def __iter__(self) -> Iterator[Row]:
        """Make the rows one by one."""
        start = 0
        for number, end in enumerate(self._ends):
            ids, values = self._ids[start:end], self._values[start:end]
            logprob = values[0] if number or self._has_first else None
            yield Row(ids[0], logprob, list(map(TokenLogprob, ids[1:], values[1:])))
            start = end

    def add(self, row: Row) -> Row:
        """Keep a row; only the first may be without a log probability."""
        if row.logprob is None:
            assert not len(self), "something stands before it"
            self._has_first = False
        self._ids.extend([row.token_id, *(top.token_id for top in row.top)])
        self._values.extend([row.logprob or 0.0, *(top.logprob for top in row.top)])
        self._ends.append(len(self._ids))
        return row


class LazyList:
    """A list of an answer whose items are made when they are encoded.

    Args:
        items: makes them.
    """

    def __init__(self, items: Callable[[], Iterable[Any]]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        """Make the items one by one."""
        return iter(self._items())


def encoded(value: Any) -> Iterator[bytes]:
    """Yield the JSON of an answer, which may have lazy lists, in parts of about 64 KiB."""
    held: list[str] = []
    size = 0
    for part in _parts(value):
        held.append(part)
        size += len(part)
        if size >= _PART_BYTES:
            yield "".join(held).encode()
            held, size = [], 0
    yield "".join(held).encode()


def _parts(value: Any) -> Iterator[str]:
    match value:
        case Mapping():
            yield "{"
            for number, (key, inner) in enumerate(value.items()):
                yield f"{',' if number else ''}{_dumps(key)}:"
                yield from _parts(inner)
            yield "}"
        case list() | LazyList():
            yield "["
            for number, inner in enumerate(value):
                yield "," if number else ""
                yield from [_dumps(inner)] if isinstance(value, LazyList) else _parts(inner)
            yield "]"
        case _:
            yield _dumps(value)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def finite(logprob: float | None) -> float | None:
    """Return a log probability as JSON can have it, to 6 digits."""
    if logprob is None:
        return None
    return round(logprob, 6) if math.isfinite(logprob) else _LEAST
