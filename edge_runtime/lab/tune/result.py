"""What a tuning found: as plain data in which every figure can be traced to samples, and for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import hypot
from statistics import median
from typing import Any

from edge_runtime.lab.tune.candidate import Candidate
from edge_runtime.lab.tune.measurement import Measurement
from edge_runtime.lab.tune.trial import SearchOutcome, Trial, expected

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Tuning:
    """Everything about one tuning.

    Attributes:
        about: bundle, machine, its fingerprint, workload, options, when.
        outcome: of the search.
        baseline: the first measurement of what it began with.
        probes: what the machine gives, as plain data, by name.
        left_out: what was not varied, and why.
        conditions: temperature and clock while it was measured.
    """

    about: Mapping[str, Any]
    outcome: SearchOutcome
    baseline: Measurement
    probes: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    conditions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> Candidate:
        """What is changed in the end."""
        return self.outcome.best

    @property
    def gain(self) -> float | None:
        """Of the result over what it began with, measured in turn; None if nothing is changed."""
        final = self.outcome.final
        return final.verdict.gain if self.best.changes and final is not None and final.verdict is not None else None

    def why(self, name: str) -> str:
        """Say why an option has its value: the trial that brought it."""
        for trial in self.outcome.trials:
            is_it = trial.candidate.options.get(name) == self.best.options.get(name)
            if is_it and name in trial.candidate.options and trial.verdict is not None and trial.verdict.is_accepted:
                return f"{described(trial)}, measured in turn {len(trial.measured)} times"
        return "part of the result"

    def errors(self) -> list[float]:
        """Predicted by measured rate, less 1, of every candidate that was both predicted and measured.

        Predicted is what stands, as it was measured in the same rounds, and the gain that was expected over it.
        """
        return [error for error, _ in self._errors()]

    def within_doubt(self) -> int:
        """How many of the errors are no greater than twice what probes and rounds by themselves explain."""
        return sum(abs(error) <= 2 * explained for error, explained in self._errors())

    def _errors(self) -> list[tuple[float, float]]:
        """Of each prediction that was measured: its error, and how great that may be by probes and rounds."""
        return [
            (
                (1 + trial.expected_gain) * trial.stood / median(each.rate for each in trial.measured) - 1,
                hypot(trial.expected_doubt or 0.0, trial.verdict.spread if trial.verdict else 0.0),
            )
            for trial in self._all()
            if trial.expected_gain is not None and trial.stood is not None
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        errors = [round(error, 4) for error in self.errors()]
        return {
            "format_version": FORMAT_VERSION,
            **self.about,
            "best": self.best.options,
            "gain": None if self.gain is None else round(self.gain, 4),
            "is_cut_short": self.outcome.is_cut_short,
            "prediction": {
                "errors": errors,
                "median_absolute": median(map(abs, errors)) if errors else None,
                "largest_absolute": max(map(abs, errors), default=None),
                "foreseen": self.within_doubt(),
            },
            "baseline": self.baseline.to_json(),
            "trials": [_trial_json(trial) for trial in self.outcome.trials],
            "final": None if self.outcome.final is None else _trial_json(self.outcome.final),
            "left_out": list(self.left_out),
            "conditions": dict(self.conditions),
            "probes": dict(self.probes),
        }

    def lines(self) -> list[str]:
        """Return it for people: the result, then every candidate with what became of it."""
        head = "nothing is changed: no candidate is better by what counts"
        if self.best.changes and self.gain is not None:
            head = f"{self.best}: {100 * self.gain:+.1f} % tok/s against what it began with"
        rows = [head, ""]
        rows += [f"{trial.axis}: {trial.candidate}: {outcome_of(trial)}" for trial in self._all()]
        if (mode := self.best.options.get("power_mode")) is not None:
            rows += ["", f"power mode {mode} is in the profile, and not in force: sudo nvpmodel -m ID, see nvpmodel -p"]
        errors = self.errors()
        if errors:
            rows += ["", f"predictions: off by {100 * median(map(abs, errors)):.1f} % in the median, at most by "
                         f"{100 * max(map(abs, errors)):.1f} %, of {len(errors)}; {self.within_doubt()} of them by no "
                         "more than what probes and rounds leave open"]  # fmt: skip
        rows += [f"not varied: {why}" for why in self.left_out]
        rows += ["the time was over before everything was tried"] * self.outcome.is_cut_short
        return rows + [str(line) for line in self.conditions.get("remarks", ())]

    def _all(self) -> list[Trial]:
        return [*self.outcome.trials, *([self.outcome.final] if self.outcome.final is not None else [])]


def described(trial: Trial) -> str:
    """Say what was measured of a trial: gain, spread, prediction."""
    verdict = trial.verdict
    assert verdict is not None
    said = f"{100 * verdict.gain:+.1f} % tok/s (± {100 * verdict.spread:.1f})"
    return said if trial.expected_gain is None else f"{said}, {expected(trial)} were predicted"


def outcome_of(trial: Trial) -> str:
    """Say what became of a trial."""
    if trial.verdict is None:
        return trial.why
    if trial.verdict.is_accepted:
        return f"{described(trial)}: accepted"
    return f"{described(trial)}: refused, {'; '.join(trial.verdict.reasons)}"


def _trial_json(trial: Trial) -> dict[str, Any]:
    verdict = trial.verdict
    return {
        "axis": trial.axis,
        "candidate": trial.candidate.options,
        "rehearsal": None if trial.rehearsal is None else trial.rehearsal.to_json(),
        "predicted_tok_s": None if trial.predicted is None else round(trial.predicted, 4),
        "expected_gain": None if trial.expected_gain is None else round(trial.expected_gain, 4),
        "expected_doubt": None if trial.expected_doubt is None else round(trial.expected_doubt, 4),
        "stood_tok_s": None if trial.stood is None else round(trial.stood, 4),
        "measured": [each.to_json() for each in trial.measured],
        "gain": None if verdict is None else round(verdict.gain, 4),
        "spread": None if verdict is None else round(verdict.spread, 4),
        "is_accepted": verdict is not None and verdict.is_accepted,
        "why": trial.why or ("; ".join(verdict.reasons) if verdict is not None else ""),
    }
