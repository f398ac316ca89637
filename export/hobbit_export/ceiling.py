"""The ceiling of `--memory`, held before there is a plan: what a file would make this process hold is estimated first.

Headers, configurations and tokenizers become Python's objects, which take many times the bytes of their text. Their
sizes are claims of a file that nobody has checked yet, so each is refused before it is parsed if it might not fit.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from edge_runtime.base.errors import BudgetError
from edge_runtime.base.sizes import MIB, format_size

_ceiling: ContextVar[int | None] = ContextVar("ceiling", default=None)
_VALUE, _PAIR, _LIST, _OBJECT = 96, 288, 120, 720
"""Bytes of CPython's objects for a value, a key with its place in a dict that may just be growing, a list, and a dict
with what is made of it. Measured: 40 to 90 % of the sum, by the kind of text."""


@contextmanager
def ceiling(num_bytes: int) -> Iterator[None]:
    """Meanwhile `need_memory` holds this process to so many bytes."""
    token = _ceiling.set(num_bytes)
    try:
        yield
    finally:
        _ceiling.reset(token)


def need_memory(num_bytes: int, where: str) -> None:
    """Refuse work on a file that might take the process over its ceiling. Without a ceiling nothing is refused.

    Args:
        num_bytes: what it may take at most.
        where: the file, for the message.

    Raises:
        BudgetError: it might not fit beside what the process holds now.
    """
    limit = _ceiling.get()
    if limit is None:
        return
    used = resident_bytes()
    if used + num_bytes > limit:
        raise BudgetError(
            f"--memory {format_size(limit)}: {where}: reading it may take {format_size(num_bytes)} beside "
            f"{format_size(used)} in use. To read it, if it is sound, raise --memory to at least "
            f"{-(-(used + num_bytes) // MIB) + 1}MiB."  # the process differs from run to run
        )


def json_bytes(raw: bytes | bytearray) -> int:
    """Return more memory than parsing a JSON text takes, its own bytes not counted.

    Its characters exist twice: decoded as a whole, and in strings. Marks within strings count as if they were values.
    """
    width = 1 if raw.isascii() else 4
    marks = ((b",", _VALUE), (b":", _PAIR), (b"[", _LIST), (b"{", _OBJECT))
    return 2 * width * len(raw) + sum(cost * raw.count(mark) for mark, cost in marks)


def resident_bytes(field: str = "VmRSS") -> int:
    """Resident memory now (`VmRSS`) or at its peak (`VmHWM`), in bytes."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
