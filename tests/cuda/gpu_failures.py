"""Checks of `make gpu-check` that fail are collected by name, so that one wrong kernel does not hide the others."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_runtime.backends.cuda.driver import CudaContextLostError

MOST_SAID = 300


class ChecksFailed(AssertionError):
    """Some checks of a part failed, and the others ran.

    Attributes:
        failed: each as "name: error".
        found: what the part found nevertheless.
        is_lost: the last one ended all use of the GPU by this process.
    """

    def __init__(self, failed: list[str], found: Any = None, *, is_lost: bool = False) -> None:
        super().__init__("; ".join(failed))
        self.failed, self.found, self.is_lost = failed, found, is_lost


class Failures:
    """Keeps what fails.

    Attributes:
        failed: each as "name: error".
    """

    def __init__(self) -> None:
        self.failed: list[str] = []

    @contextmanager
    def kept(self, name: str) -> Iterator[None]:
        """Run a check. Its error is kept under its name, and goes no further.

        Raises:
            ChecksFailed: the context was lost, so nothing can run behind it.
        """
        try:
            yield
        except Exception as err:
            self.failed.append(f"{name}: {said_of(err)}")
            print(f"FAILED: {self.failed[-1]}", flush=True)
            if is_lost(err):
                raise ChecksFailed(self.failed, is_lost=True) from err

    def finish(self, found: Any = None) -> None:
        """End a part.

        Raises:
            ChecksFailed: something in it failed.
        """
        if self.failed:
            raise ChecksFailed(self.failed, found)


def is_lost(err: BaseException) -> bool:
    """Whether a context was lost on the way to an error: what says more about a loss is of another class."""
    if isinstance(err, CudaContextLostError):
        return True
    return any(is_lost(each) for each in {err.__cause__, err.__context__} if each is not None)


def said_of(err: BaseException) -> str:
    """Return an error in a line: a bare assert has no words, so where it stands, and what it asserts."""
    said = " ".join(str(err).split())
    if not said:
        place = traceback.extract_tb(err.__traceback__)[-1]
        said = f"{Path(place.filename).name}:{place.lineno}: {place.line}"
    return f"{type(err).__name__}: {said}"[:MOST_SAID]
