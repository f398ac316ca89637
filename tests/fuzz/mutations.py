"""Changes of plain data and of bytes that a parser could stumble over. Deterministic for a seed."""

from __future__ import annotations

import copy
import random
from typing import Any

NUMBERS: list[Any] = [
    0, -1, 1, 2, 3, 7, 255, 256, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**19, 10**400,
    0.5, -0.5, 1e-320, 1e-30, 1e30, 1e308, float("inf"), float("-inf"), float("nan"), True, False,
]  # fmt: skip
TEXTS: list[Any] = [
    "", " ", "a", "\x00", "\n", "ä", "漢", "\U0001f600", "\u202e", "\ufeff", "a" * 300, "../x", "/etc/passwd", "a/../../x",
    "%s%n", "{{7*7}}", "(a+)+$", "(a{1000}){1000}", "NaN", "null", "-1", "1e999", "\\", '"', "x" * 70_000,
]  # fmt: skip
OTHERS: list[Any] = [None, [], {}, [[]], [{}], {"": {}}, {"type": "Sequence"}, [None] * 50]


def any_value(rng: random.Random) -> Any:
    """One value of any kind."""
    return copy.deepcopy(rng.choice(rng.choice([NUMBERS, NUMBERS, TEXTS, OTHERS])))


def places(data: Any, limit: int = 4000) -> list[tuple[Any, Any]]:
    """Every (container, key) of plain data; of long containers some."""
    found: list[tuple[Any, Any]] = []
    level = [data]
    while level and len(found) < limit:
        item = level.pop()
        keys = list(item)[:40] if isinstance(item, dict) else range(min(len(item), 40))
        for key in keys:
            found.append((item, key))
            if isinstance(item[key], (dict, list)):
                level.append(item[key])
    return found


def change(rng: random.Random, data: Any) -> None:
    """Change one place of plain data."""
    container, key = rng.choice(places(data) or [([], 0)])
    if not container:
        return
    value, how = container[key], rng.randrange(8)
    if how == 0:
        del container[key]
    elif how == 1 and isinstance(container, list):
        container.insert(key, copy.deepcopy(value))
    elif how == 1:
        container[str(any_value(rng))[:200]] = value
    elif how == 2:
        other, place = rng.choice(places(data))
        container[key] = copy.deepcopy(other[place])
    elif how == 3 and isinstance(value, (list, str)):
        container[key] = value * rng.choice([0, 2, 50])
    elif how == 4 and isinstance(value, (int, float)) and not isinstance(value, bool):
        container[key] = rng.choice([value + 1, value - 1, -value, value * 2, value // 2 if value == value else 0])
    elif how == 5 and isinstance(value, str) and value:
        at = rng.randrange(len(value))
        container[key] = value[:at] + rng.choice(TEXTS)[:50] + value[at + rng.randrange(2) :]
    else:
        container[key] = any_value(rng)


def changed(rng: random.Random, data: Any) -> Any:
    """Return a copy with one to four changes."""
    data = copy.deepcopy(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        change(rng, data)
    return data


def damaged(rng: random.Random, raw: bytes) -> bytes:
    """Return bytes with a few of them changed, cut out, doubled or put in."""
    data = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at, size = rng.randrange(len(data) + 1), rng.choice([1, 1, 2, 4, 8, 100])
        how = rng.randrange(5)
        if how == 0:
            data[at : at + size] = rng.randbytes(size)
        elif how == 1:
            del data[at : at + size]
        elif how == 2:
            data[at:at] = data[at : at + size]
        elif how == 3:
            data[at : at + size] = rng.choice([b"\x00", b"\xff", b"\x7f", b"\x80"]) * size
        else:
            data[at:at] = rng.randbytes(size)
    return bytes(data)
