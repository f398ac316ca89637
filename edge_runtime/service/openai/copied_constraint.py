"""One constraint for several answers: each gets a copy of its own when its first token is drawn."""

from __future__ import annotations

from typing import Protocol

from edge_runtime.base.arrays import Bools
from edge_runtime.engine.sampler import Constraint


class CopyableConstraint(Constraint, Protocol):
    """A constraint of which nothing has been generated yet can be copied."""

    def copy(self) -> CopyableConstraint:
        """Return the same state for another text."""
        ...


class CopiedConstraint:
    """A copy made on its first use, so that answers that wait take no memory for it. Implements `Constraint`.

    Args:
        original: copied, and never used itself.
    """

    def __init__(self, original: CopyableConstraint) -> None:
        self._original = original
        self._own: CopyableConstraint | None = None

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow."""
        return self._used().is_complete

    def allowed(self) -> Bools:
        """Return bool [V]: the tokens that may come next."""
        return self._used().allowed()

    def accept(self, token_id: int) -> None:
        """Take note of a token."""
        self._used().accept(token_id)

    def _used(self) -> CopyableConstraint:
        if self._own is None:
            self._own = self._original.copy()
        return self._own
