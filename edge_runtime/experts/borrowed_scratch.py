"""ScratchLoan: while nothing but single tokens runs, experts have the memory that is kept for prompts."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge_runtime.base.errors import BudgetError
from edge_runtime.experts.cache import ExpertCache

_log = logging.getLogger(__name__)
QUIET_PASSES = 8
"""Passes of few tokens in a row after which the memory is lent: taking it back for the next prompt costs time."""


class BorrowedScratch:
    """Lends scratch between passes and takes back what the next pass needs, before it runs. For the decoder's thread.

    Args:
        cache: gets the memory.
        few_tokens: passes of at most so many tokens need no scratch that is lent.
        unused_bytes: scratch that a pass of that many tokens leaves unused.
        slot_bytes: of an expert at the full tier.
        most: slots lent at most; may be changed at any time.
        release: gives what longer passes left behind back to the system.
    """

    def __init__(
        self,
        cache: ExpertCache,
        *,
        few_tokens: int,
        unused_bytes: Callable[[int], int],
        slot_bytes: int,
        most: int,
        release: Callable[[], None],
    ) -> None:
        self._cache, self._few, self._unused_bytes, self._slot_bytes = cache, few_tokens, unused_bytes, slot_bytes
        self.most, self._release = most, release
        self._quiet = 0

    def start_over(self, most: int) -> None:
        """The cache was emptied and nothing is lent: begin as after opening, with so many slots to lend at most."""
        self.most, self._quiet = most, 0

    def begin_pass(self, num_tokens: int) -> None:
        """A pass of so many tokens is next.

        Raises:
            ExpertReadError: the drive still owes reads of an earlier pass.
        """
        if num_tokens > self._few:
            self._quiet = 0
            if self._cache.borrowed_slots > (room := self._room(num_tokens)):
                self._cache.borrow(room)
            return
        self._quiet += 1
        if self._quiet == QUIET_PASSES and self._cache.borrowed_slots < (room := self._room(self._few)):
            self._release()
            try:
                self._cache.borrow(room)
            except BudgetError as err:
                self.most = 0
                _log.warning("scratch is not lent to experts: %s", err)

    def _room(self, num_tokens: int) -> int:
        return min(self._unused_bytes(num_tokens) // self._slot_bytes, self.most)
