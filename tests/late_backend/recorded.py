"""What a policy decided on one backend, decided again on another.

A policy that looks at residency may decide otherwise where slots have another size or stay pinned longer. What it
decided must still give the same numbers anywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_runtime.policy.base import Decision, Policy, ResidencyView, Routing
from edge_runtime.policy.wrappers.watching import Watching


class Recording(Watching):
    """Keeps a policy's decisions."""

    def __init__(self, inner: Policy) -> None:
        super().__init__(inner)
        self.decisions: list[Decision] = []
        self.accepted: list[bool] = []

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        """Keep it."""
        self.decisions.append(super().decide(layer_idx, routing, residency))
        return self.decisions[-1]

    def accept(self, logits: np.ndarray) -> bool:
        """Keep it."""
        self.accepted.append(super().accept(logits))
        return self.accepted[-1]


class Replaying(Watching):
    """Decides what was decided before."""

    def __init__(self, inner: Policy, recording: Recording) -> None:
        super().__init__(inner)
        self._decisions, self._accepted = iter(recording.decisions), iter(recording.accepted)

    def decide(self, *_: Any) -> Decision:
        """Return the next."""
        return next(self._decisions)

    def accept(self, logits: np.ndarray) -> bool:
        """Return the next."""
        return next(self._accepted)

    def is_over(self) -> bool:
        """Whether all was decided again."""
        return next(self._decisions, None) is None and next(self._accepted, None) is None
