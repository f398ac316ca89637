"""Jobs for the tests of `edge_runtime.base.confined`; run in its host."""

from __future__ import annotations

import os
from typing import Any

_SEEN: list[int] = []


def echo(value: Any) -> Any:
    return value


def spin(_: Any) -> None:
    while True:
        pass


def grow(_: Any) -> None:
    kept = []
    while True:
        kept.append(b"x" * (1 << 20))


def fail(text: str) -> None:
    raise ValueError(text)


def exit_now(_: Any) -> None:
    os._exit(3)


def long_answer(_: Any) -> str:
    return "x" * (65 << 20)


def write_file(path: str) -> None:
    with open(path, "w") as file:
        file.write("x" * 10)


def remember(_: Any) -> int:
    _SEEN.append(1)
    return len(_SEEN)
