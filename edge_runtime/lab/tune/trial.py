"""What became of candidates, and of a whole search. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_runtime.lab.tune.accept import Verdict
from edge_runtime.lab.tune.candidate import Candidate
from edge_runtime.lab.tune.measurement import Measurement
from edge_runtime.lab.tune.rehearsal import Rehearsal


@dataclass(frozen=True)
class Trial:
    """What became of a candidate.

    Attributes:
        axis: along which it was tried.
        candidate: what it is.
        rehearsal: what was told of a candidate that changes what is said; None of others.
        predicted: tokens a second, from the very first measurement; None if it could not be.
        expected_gain: the same against the prediction for what stands.
        expected_doubt: by what share that may be off, as far as probes tell.
        stood: tokens a second of what stands, in the same rounds.
        measured: each round's.
        verdict: None if it was not measured to the end.
        why: why not.
    """

    axis: str
    candidate: Candidate
    rehearsal: Rehearsal | None = None
    predicted: float | None = None
    expected_gain: float | None = None
    expected_doubt: float | None = None
    stood: float | None = None
    measured: tuple[Measurement, ...] = ()
    verdict: Verdict | None = None
    why: str = ""

    @property
    def expected_spread(self) -> float:
        """By how much the gain that is expected may be off, on either side."""
        return (1 + (self.expected_gain or 0.0)) * (self.expected_doubt or 0.0)


@dataclass
class SearchOutcome:
    """What a search found.

    Attributes:
        best: the candidate that stands in the end.
        trials: every candidate looked at.
        final: of `best` against no change at all, measured in turn once more; None if nothing changed.
        is_cut_short: time ran out.
    """

    best: Candidate = field(default_factory=Candidate)
    trials: list[Trial] = field(default_factory=list)
    final: Trial | None = None
    is_cut_short: bool = False


def expected(trial: Trial) -> str:
    """Say the gain that is expected of a trial, and how far that may be off."""
    return f"{100 * (trial.expected_gain or 0.0):+.1f} % (± {100 * trial.expected_spread:.1f})"
