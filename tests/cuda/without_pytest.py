"""Stands in for pytest where it is not installed, as on a device: `make gpu-check` calls the tests as functions."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class _Marks:
    """Any mark, with or without arguments: the function as it is."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return _decorate


def _decorate(*given: Any, **_: Any) -> Any:
    if len(given) == 1 and callable(given[0]):
        return given[0]
    return lambda function: function


@contextmanager
def raises(error: type[BaseException] | tuple[type[BaseException], ...], match: str = "") -> Iterator[None]:
    """Fail unless the block raises an error, whose text has the pattern in it."""
    said: str | None = None
    try:
        yield
    except error as err:
        said = str(err)
    assert said is not None, f"{error} was not raised"
    assert re.search(match, said), f"{match!r} is not in {said}"


def stand_in() -> None:
    """Let `import pytest` give this where there is none."""
    try:
        import pytest  # noqa: F401
    except ImportError:
        module = types.ModuleType("pytest")
        parts = {"mark": _Marks(), "fixture": _decorate, "param": lambda *values, **_: values, "raises": raises}
        module.__dict__.update(parts)
        sys.modules["pytest"] = module
