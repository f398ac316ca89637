"""BorrowedScratch: while passes are short, experts use the memory that is planned for long ones."""

from __future__ import annotations

import logging
from typing import Protocol

from edge_runtime.base.errors import BudgetError
from edge_runtime.experts.cache import ExpertCache

_log = logging.getLogger(__name__)
QUIET_PASSES = 8
"""Short passes in a row after which the memory is borrowed: giving it back for the next prompt costs time."""


class ScratchSizes(Protocol):
    """Scratch by the length of a pass; `PassScratch` is one."""

    @property
    def few_tokens(self) -> int:
        """Tokens up to which a pass is short."""
        ...

    def unused(self, chunk: int, tokens: int) -> int:
        """Return the bytes planned for `chunk` tokens that a pass of `tokens` leaves unused."""
        ...


class ScratchOwner(Protocol):
    """Whose scratch it is; `ExpertKernels` are one."""

    def release_scratch(self) -> None:
        """Give what long passes left behind back to the system."""
        ...


class BorrowedScratch:
    """Borrows scratch between passes and gives back what the next pass needs, before it runs. For the decoder's thread.

    Args:
        cache: gets the memory.
        sizes: scratch by the length of a pass.
        owner: gives it back to the system first.
        chunk: tokens of the longest pass.
        slot_bytes: of an expert at the full tier.
        most: slots borrowed at most; may be changed at any time.
    """

    def __init__(
        self, cache: ExpertCache, sizes: ScratchSizes, owner: ScratchOwner, *, chunk: int, slot_bytes: int, most: int
    ) -> None:
        self._cache, self._sizes, self._owner = cache, sizes, owner
        self._chunk, self._slot_bytes, self.most = chunk, slot_bytes, most
        self._quiet = 0

    def start_over(self, most: int) -> None:
        """The cache was emptied and nothing is borrowed: begin as after opening, with so many slots at most."""
        self.most, self._quiet = most, 0

    def begin_pass(self, num_tokens: int) -> None:
        """A pass of so many tokens is next.

        Raises:
            ExpertReadError: reads of an earlier pass have not returned.
        """
        few = self._sizes.few_tokens
        if num_tokens > few:
            self._quiet = 0
            if self._cache.residents.borrowed_slots > (room := self._room(num_tokens)):
                self._borrow(room)
            return
        self._quiet += 1
        if self._quiet == QUIET_PASSES and self._cache.residents.borrowed_slots < (room := self._room(few)):
            self._owner.release_scratch()
            self._borrow(room)

    def _borrow(self, num_slots: int) -> None:
        """Let experts use so much. If memory is refused they have less than that, and never borrow again."""
        try:
            self._cache.borrow(num_slots)
        except BudgetError as err:
            self.most = 0
            _log.warning("experts do not use the scratch of prompts: %s", err)

    def _room(self, num_tokens: int) -> int:
        return min(self._sizes.unused(self._chunk, num_tokens) // self._slot_bytes, self.most)
