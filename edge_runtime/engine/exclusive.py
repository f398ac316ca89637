"""Who may use an engine: one request at a time, and none after it was closed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from edge_runtime.base.errors import RequestError

T = TypeVar("T")
_PATIENCE_S = 0.02
"""How long to wait for a part to end before looking whether it did what was asked."""


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
        self._asked: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._is_closed = False
        self.is_released = False
        self.parts_begun = 0
        """Parts of requests that were computed so far."""

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
            self.parts_begun += 1
            try:
                self.require_open()
                self._do_asked()
                return action()
            finally:
                if self._is_closed:
                    self._release()
                self._worker = None

    def interject(self, action: Callable[[], T]) -> T:
        """Run something between two parts of whatever request there is, suspended or not. From any thread.

        Whoever computes does it before its next part: who waits for a lock could wait for a whole request, as one part
        follows the other.

        Raises:
            RequestError: the engine was closed or handed over, or this is a part of a request itself.
        """
        self.require_open()
        if self._worker == threading.get_ident():
            raise RequestError("engine: a pass is running in this thread. Ask between two tokens.")
        if self._owner is self:
            raise RequestError("engine: it was handed over. Ask whoever drives it.")
        done: Future[T] = Future()
        self._asked.append((action, done))
        while not done.done():
            if self._computing.acquire(timeout=_PATIENCE_S):
                try:
                    self._do_asked()
                finally:
                    self._computing.release()
        return done.result()

    def _do_asked(self) -> None:
        """Do what others asked for, and tell them; what it raises is theirs."""
        while self._asked:
            action, done = self._asked.popleft()
            try:
                self.require_open()
                done.set_result(action())
            except BaseException as err:
                done.set_exception(err)
                if not isinstance(err, Exception):
                    raise

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
