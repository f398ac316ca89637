"""Speculation of an engine: whether its passes may have drafts, and what became of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edge_runtime.backends.trunk import Trunk
from edge_runtime.base.arrays import I32
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.engine.speculation.counts import DraftCounts
from edge_runtime.engine.speculation.drafting import Drafting
from edge_runtime.engine.speculation.judge import Judge
from edge_runtime.engine.speculation.limits import why_no_drafts, why_not_under
from edge_runtime.policy.base import Policy


class Speculation:
    """What the requests of an engine share of speculation.

    Args:
        mode: 'ngram': every draft is checked; 'auto': only while that is measured to be faster.
        spec: the model.
        trunk: what computes its dense part.

    Attributes:
        mode: as given.
        judge: of the mode 'auto'; None else.
        totals: since opening.

    Raises:
        ConfigError: 'ngram' was asked for, and drafts cannot be checked here.
    """

    def __init__(self, mode: str, spec: ModelSpec, trunk: Trunk[Any]) -> None:
        self.mode, self.totals = mode, DraftCounts()
        self.judge = Judge() if mode == "auto" else None
        self._why_never = why_no_drafts(spec, trunk)
        if self._why_never and mode == "ngram":
            raise ConfigError(f"speculate: ngram cannot be used here: {self._why_never}. Use --speculate auto or off.")

    def why_off(self, policy: Policy) -> str:
        """Return why nothing is drafted for requests of a policy; empty if something may be."""
        return self._why_never or why_not_under(policy)

    def drafting(self, prompt_ids: I32, decides: Callable[[], Policy]) -> Drafting | None:
        """Return what drafts for a request that begins; None where nothing can be.

        Args:
            prompt_ids: int32 [N], its prompt.
            decides: returns the policy that decides for its next pass.
        """
        if self._why_never:
            return None
        if self.judge is not None:
            self.judge.new_text()
        return Drafting(prompt_ids, self.judge, self.totals, lambda: not why_not_under(decides()))

    def forget(self) -> None:
        """What was measured holds no longer: memory or policy has changed."""
        if self.judge is not None:
            self.judge.forget()

    def to_json(self, counts: DraftCounts, policy: Policy) -> dict[str, Any]:
        """Return the `speculation` object of a report.

        Args:
            counts: of what is reported on.
            policy: that decided.
        """
        judge = self.judge
        return {
            "mode": self.mode,
            "off_because": self.why_off(policy) or None,
            **vars(counts),
            "is_on": None if judge is None else judge.is_on,
            "switches": None if judge is None else judge.switches,
            "gain": None if judge is None or judge.gain is None else round(judge.gain, 4),
        }
