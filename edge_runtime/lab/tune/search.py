"""The search: along one axis after another the likeliest candidates are measured in turn with what stands.

Knows neither engines nor files: whoever calls it measures. The path depends on measurements alone, so that a search
whose measurements come from a journal comes to where it was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Protocol

from edge_runtime.lab.tune.accept import Terms, judge
from edge_runtime.lab.tune.candidate import Axis, Candidate
from edge_runtime.lab.tune.measurement import Failure, Measurement
from edge_runtime.lab.tune.rehearsal import Rehearsal
from edge_runtime.lab.tune.trial import SearchOutcome, Trial, expected


class Laboratory(Protocol):
    """Measures and predicts."""

    def measure(self, stage: str, candidate: Candidate, number: int, *, lossy: bool) -> Measurement | Failure:
        """Measure a candidate once, in a round of a stage; `lossy`: its KL divergence too."""
        ...

    def rehearse(self, candidate: Candidate) -> Rehearsal | Failure:
        """Run a candidate once that changes what is said, so that what it reads and what it loses is known."""
        ...

    def predict(self, candidate: Candidate) -> float | None:
        """Return tokens a second; None if that cannot be known."""
        ...

    def doubt(self, candidate: Candidate) -> float:
        """By what share the gain of a prediction may be off; 0 if nothing is known of that."""
        ...

    def begin_with(self, stands: Candidate, measured: Sequence[Measurement]) -> None:
        """Predict from this one from now on, which was measured in several rounds."""
        ...

    def has_time(self, measurements: int) -> bool:
        """Whether so many more measurements fit the time budget."""
        ...


@dataclass(frozen=True)
class SearchRules:
    """How a search goes about it.

    Attributes:
        rounds: measurements of each finalist.
        finalists: candidates measured on an axis.
        hopeless: a prediction below so many times that of what stands is not measured.
        lagging: a candidate whose rounds are in the median below so many times what stands is given up.
        terms: what has to hold for a change.
    """

    rounds: int = 5
    finalists: int = 3
    hopeless: float = 0.95
    lagging: float = 0.9
    terms: Terms = field(default_factory=Terms)


_NO_TIME = "not tried: the time is over"


def search(
    axes: Sequence[Axis], lab: Laboratory, rules: SearchRules, say: Callable[[str], None] = lambda text: None
) -> SearchOutcome:
    """Try every axis once, then the result against where it began; what loses there is taken back.

    Args:
        axes: in order.
        lab: measures.
        rules: how.
        say: told what goes on.
    """
    outcome = SearchOutcome()
    for axis in axes:
        if not lab.has_time(_least(rules)):
            outcome.is_cut_short = True
            break
        _try_axis(axis, lab, rules, outcome, say)
    if outcome.best != Candidate():
        _verify(lab, rules, outcome, say)
    return outcome


def _least(rules: SearchRules) -> int:
    """Measurements without which an axis is not begun: a trial of one candidate, and the verification behind it."""
    return 4 * rules.rounds


def _try_axis(
    axis: Axis, lab: Laboratory, rules: SearchRules, outcome: SearchOutcome, say: Callable[[str], None]
) -> None:
    best = outcome.best
    if axis.is_lossy:
        say(f"{axis.name}: rehearsing {len(axis.around(best))} candidates that change what is said")
    chosen, passed_over = _finalists(axis, best, lab, rules)
    outcome.trials += passed_over
    outcome.is_cut_short |= any(trial.why == _NO_TIME for trial in passed_over)
    if not chosen:
        return
    say(f"{axis.name}: {best} against {'; '.join(str(trial.candidate) for trial in chosen)}")
    before, tried = _rounds(axis, [Trial(axis.name, best), *chosen], lab, rules, reserve=2 * rules.rounds)
    trials = [_judged(trial, before, rules, axis) for trial in tried]
    outcome.trials += trials
    if before:
        lab.begin_with(best, before)
    accepted = [trial for trial in trials if trial.verdict is not None and trial.verdict.is_accepted]
    if accepted:
        winner = max(accepted, key=lambda trial: trial.verdict.gain if trial.verdict else 0.0)
        outcome.best = winner.candidate
        lab.begin_with(winner.candidate, winner.measured)
        assert winner.verdict is not None
        say(f"{axis.name}: {winner.candidate}: {100 * winner.verdict.gain:+.1f} % tok/s, accepted")


def _finalists(axis: Axis, best: Candidate, lab: Laboratory, rules: SearchRules) -> tuple[list[Trial], list[Trial]]:
    """Choose what is measured: the highest predictions; what cannot be predicted comes first."""
    own = lab.predict(best)
    found = [Trial(axis.name, candidate) for candidate in axis.around(best)]
    if axis.is_lossy:
        found = [_rehearsed(trial, lab, rules) for trial in found]
    refused = [trial for trial in found if trial.why]
    trials = [_foretold(trial, own, lab) for trial in found if not trial.why]
    unknown = [trial for trial in trials if trial.predicted is None or own is None]
    known = [trial for trial in trials if trial not in unknown]
    known.sort(key=lambda trial: -(trial.predicted or 0.0))
    likely = [trial for trial in known if 1 + (trial.expected_gain or 0.0) + trial.expected_spread >= rules.hopeless]
    chosen = (unknown + likely)[: rules.finalists]
    left = [replace(trial, why=_why_left(trial, own)) for trial in trials if trial not in chosen]
    return chosen, refused + left


def _rehearsed(trial: Trial, lab: Laboratory, rules: SearchRules) -> Trial:
    """Add what a rehearsal told; what it rules out need not be measured, and is given the reason."""
    if not lab.has_time(1 + _least(rules)):
        return replace(trial, why=_NO_TIME)
    found = lab.rehearse(trial.candidate)
    if isinstance(found, Failure):
        return replace(trial, why=found.why)
    most = rules.terms.max_kld
    too_much = most is not None and found.kld is not None and found.kld > most
    why = f"not measured: KL divergence {found.kld:.4f} nats a token, above the budget of {most:g}" if too_much else ""
    return replace(trial, rehearsal=found, why=why)


def _foretold(trial: Trial, own: float | None, lab: Laboratory) -> Trial:
    """Add what is predicted, the gain that promises, and how far it may be off; `own` is that of what stands."""
    predicted = lab.predict(trial.candidate)
    if predicted is None or not own:
        return replace(trial, predicted=predicted)
    doubt = lab.doubt(trial.candidate)
    return replace(trial, predicted=predicted, expected_gain=predicted / own - 1, expected_doubt=doubt)


def _why_left(trial: Trial, own: float | None) -> str:
    if trial.predicted is None or own is None:
        return "not measured: others came first"
    return f"not measured: {expected(trial)} predicted"


def _rounds(
    axis: Axis, trials: Sequence[Trial], lab: Laboratory, rules: SearchRules, reserve: int = 0
) -> tuple[list[Measurement], list[Trial]]:
    """Measure all of them in turn, round by round, beginning with another one each time; the first is what stands.

    So many measurements in `reserve` have to fit the time budget behind these.
    """
    found: dict[Candidate, list[Measurement]] = {trial.candidate: [] for trial in trials}
    dropped: dict[Candidate, str] = {}
    base = trials[0].candidate
    for number in range(rules.rounds):
        alive = [trial.candidate for trial in trials if trial.candidate not in dropped]
        if len(alive) == 1 or base in dropped:
            break
        if not lab.has_time(len(alive) + reserve):
            dropped |= {candidate: "not finished: the time is over" for candidate in alive if candidate != base}
            break
        shift = number % len(alive)
        for candidate in [*alive[shift:], *alive[:shift]]:
            measured = lab.measure(axis.name, candidate, number, lossy=axis.is_lossy)
            if isinstance(measured, Failure):
                dropped[candidate] = measured.why
            else:
                found[candidate].append(measured)
        dropped |= _lagging(found, base, dropped, rules)
    tried = [
        replace(trial, measured=tuple(found[trial.candidate]), why=dropped.get(trial.candidate, ""))
        for trial in trials[1:]
    ]
    if base in dropped:
        tried = [replace(trial, why=trial.why or f"what stands failed: {dropped[base]}") for trial in tried]
    return found[base], tried


def _lagging(
    found: dict[Candidate, list[Measurement]], base: Candidate, dropped: dict[Candidate, str], rules: SearchRules
) -> dict[Candidate, str]:
    """Who is so far behind that further rounds would be a waste: in the median of those so far, as one may be off."""
    own = found[base]
    behind = {
        candidate: median(one.rate / other.rate for one, other in zip(rounds, own, strict=True)) - 1
        for candidate, rounds in found.items()
        if candidate != base and candidate not in dropped and len(rounds) == len(own) != 0
    }
    return {
        candidate: f"given up: {100 * gain:+.1f} % after round {len(own)}"
        for candidate, gain in behind.items()
        if gain < rules.lagging - 1
    }


def _judged(trial: Trial, before: Sequence[Measurement], rules: SearchRules, axis: Axis) -> Trial:
    """Add the verdict, unless it was not measured to the end."""
    if trial.measured and before:
        trial = replace(trial, stood=median(each.rate for each in before[: len(trial.measured)]))
    if trial.why or len(trial.measured) != len(before) or not before:
        return trial if trial.why else replace(trial, why="not measured to the end")
    terms = rules.terms if axis.is_lossy else replace(rules.terms, max_kld=None)
    return replace(trial, verdict=judge(before, trial.measured, terms))


def _verify(lab: Laboratory, rules: SearchRules, outcome: SearchOutcome, say: Callable[[str], None]) -> None:
    """Measure the result once more against no change; what does not hold there is taken back as a whole."""
    is_lossy = any(name in outcome.best.options for name in ("policy", "tier"))
    axis = Axis("everything together", (), is_lossy=is_lossy)
    start, best = Trial(axis.name, Candidate()), Trial(axis.name, outcome.best)
    before, (tried,) = _rounds(axis, [start, best], lab, rules)
    outcome.final = _judged(tried, before, rules, axis)
    if outcome.final.verdict is None or not outcome.final.verdict.is_accepted:
        say("the result does not hold against no change at all: nothing is changed")
        outcome.best = Candidate()
