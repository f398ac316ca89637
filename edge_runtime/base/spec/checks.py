"""The one shape of a complaint about a spec: *where: expected, got*."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def need(ok: bool, where: str, expected: str, got: object) -> None:
    """Refuse a value.

    Raises:
        ValueError: `ok` is false.
    """
    if not ok:
        raise ValueError(f"{where}: expected {expected}, got {got!r}")


def need_counts(part: Any, limits: Mapping[str, int], where: str) -> None:
    """Refuse a field that is set and is not from 1 to its limit; `part` is a dataclass.

    Raises:
        ValueError: names the field.
    """
    for name, limit in limits.items():
        value = getattr(part, name)
        need(value is None or 1 <= value <= limit, f"{where}.{name}", f"1 to {limit}", value)
