"""DraftCounts: what became of drafts, as totals."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class DraftCounts:
    """Totals of one request, or of an engine.

    Attributes:
        passes: passes with a draft.
        drafted: tokens of drafts.
        cut: of those, left out on the way because an expert was not in memory.
        accepted: of those, drawn by the model: tokens that needed no pass of their own.
    """

    passes: int = 0
    drafted: int = 0
    cut: int = 0
    accepted: int = 0

    def add(self, *, drafted: int, cut: int, accepted: int) -> None:
        """Count a pass with a draft."""
        self.passes += 1
        self.drafted += drafted
        self.cut += cut
        self.accepted += accepted
