"""Who may use an engine: one request at a time, and none after it was closed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from edge_runtime.base.errors import RequestError

T = TypeVar("T")


class ExclusiveUse:
    """Lets one request in at a time, refuses others, and releases once when nothing computes any more.

    A request claims the engine for as long as it lasts, suspended or not, and computes in parts. Closing waits for the
    part that computes, not for the request.

    Args:
        release: releases the engine's memory; called once, when nothing computes.
    """

    def __init__(self, release: Callable[[], None]) -> None:
        self._release_all = release
        self._guard = threading.Lock()  # of _owner
        self._owner: object | None = None  # the request that runs or is suspended
        self._computing = threading.Lock()  # held while a request computes
        self._worker: int | None = None
        self._is_closed = False
        self.is_released = False

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Be the one request there may be during a block.

        Raises:
            RequestError: another request is running, or the engine was closed.
        """
        me = object()
        try:
            self._set_owner(me)
            self.require_open()
            yield
        finally:
            if self._owner is me:
                self._owner = None

    def claim_for_good(self) -> None:
        """Refuse every request from now on.

        Raises: as `claim`.
        """
        self.require_open()
        self._set_owner(self)

    def compute(self, action: Callable[[], T]) -> T:
        """Run a part of a request while nothing can be released.

        Raises:
            RequestError: the engine was closed.
        """
        with self._computing:
            self._worker = threading.get_ident()
            try:
                self.require_open()
                return action()
            finally:
                if self._is_closed:
                    self._release()
                self._worker = None

    def require_open(self) -> None:
        """Refuse work after `close`.

        Raises:
            RequestError: the engine was closed.
        """
        if self._is_closed:
            raise RequestError("engine: it was closed. Open the bundle again.")

    def close(self) -> None:
        """Release everything. Safe to call twice and from any thread, also from inside `compute`."""
        self._is_closed = True
        if self._worker == threading.get_ident():
            return  # the part that computes releases at its end
        with self._computing:
            self._release()

    def _set_owner(self, owner: object) -> None:
        with self._guard:
            if self._owner is not None:
                self.require_open()
                raise RequestError("engine: another request is running. Finish or close it first.")
            self._owner = owner

    def _release(self) -> None:
        if not self.is_released:
            self._release_all()
            self.is_released = True
