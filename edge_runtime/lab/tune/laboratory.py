"""ProcessLaboratory: measures candidates in processes, on a machine that is fit for it, within a time budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

from edge_runtime.lab.tune.candidate import Candidate
from edge_runtime.lab.tune.doubt import doubt
from edge_runtime.lab.tune.gate import Fitness, Sentinel
from edge_runtime.lab.tune.journal import Journal
from edge_runtime.lab.tune.measurement import Failure, Measurement, Workload, typical
from edge_runtime.lab.tune.mode_switch import OPTION, ModeSwitch
from edge_runtime.lab.tune.predict import RatePredictor
from edge_runtime.lab.tune.processes import run_job
from edge_runtime.lab.tune.rehearsal import Rehearsal

_AGAIN = 2
"""How often a round is measured again because the clock was off."""
_PATIENCE = 20
"""A process may take so many times what the first one took, and a minute."""
RunJob = Callable[[Mapping[str, Any], float], "dict[str, Any] | Failure"]


@dataclass(frozen=True)
class Reference:
    """What lossy candidates are compared with: logits on file, of these tokens."""

    path: Path
    tokens: list[int]


class ProcessLaboratory:
    """Implements `Laboratory`.

    Args:
        bundle: what is run.
        options: of the engine, under every candidate.
        workload: what is run.
        journal: where measurements come from, and go to.
        fitness: waits while the machine is hot, and tells whether its clock is as it was.
        budget_s: time for all of it; a process that runs when it is over is waited for.
        run: does a job.
        clock: in seconds.
    """

    def __init__(
        self,
        bundle: Path,
        options: Mapping[str, Any],
        workload: Workload,
        *,
        journal: Journal,
        fitness: Fitness,
        budget_s: float,
        run: RunJob = run_job,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._base = {"bundle": str(bundle), "workload": asdict(workload)}
        self._options, self._journal, self._run, self._clock = dict(options), journal, run, clock
        self.gate, self.sentinel = fitness.gate, fitness.sentinel
        self.modes: ModeSwitch | None = None
        self._sentinels: dict[str | None, Sentinel] = {None: fitness.sentinel}  # each power mode has a clock of its own
        self._deadline = clock() + budget_s
        self._spent_s: list[float] = []
        self.predictor: RatePredictor | None = None
        self._differ, self._stands = 0.0, Candidate()
        self.reference: Reference | None = None

    def job(self, kind: str, candidate: Candidate, **more: Any) -> dict[str, Any] | Failure:
        """Do any job for a candidate, in its power mode."""
        options = candidate.options
        mode = options.pop(OPTION, None)
        failed = None if self.modes is None else self.modes.enter(mode)
        if failed is not None:
            return Failure(failed)
        patience = 60.0 + _PATIENCE * median(self._spent_s) if self._spent_s else 3600.0
        return self._run({**self._base, "kind": kind, "options": self._options | options, **more}, patience)

    def measure(self, stage: str, candidate: Candidate, number: int, *, lossy: bool) -> Measurement | Failure:
        """See `Laboratory.measure`; a round in which the clock was off is measured again."""
        known = self._journal.get(stage, candidate.key, number)
        if known is not None:
            return known
        for _ in range(1 + _AGAIN):
            found = self._once(candidate, lossy=lossy)
            if isinstance(found, Failure) or not found.is_disturbed or self._sentinel_of(candidate).is_hopeless:
                break
        self._journal.put(stage, candidate.key, number, found)
        return found

    def _once(self, candidate: Candidate, *, lossy: bool) -> Measurement | Failure:
        celsius, started = self.gate.wait(), self._clock()
        compared = self._compared() if lossy and {"policy", "tier"} & candidate.options.keys() else {}
        said = self.job("measure", candidate, resident=candidate == self._stands, **compared)
        self._spent_s.append(self._clock() - started)
        sentinel = self._sentinel_of(candidate)
        rate = sentinel.check()
        if isinstance(said, Failure):
            return said
        said.pop("answers", None)
        try:
            found = Measurement.from_json(said, "measurement")
        except ValueError as err:
            return Failure(str(err))
        disturbed = not sentinel.is_steady(rate)
        return replace(found, celsius=celsius, clock=round(rate, 4), is_disturbed=disturbed)

    def _compared(self) -> dict[str, Any]:
        """What a job needs to say what a candidate loses."""
        if self.reference is None:
            return {}
        return {"reference": str(self.reference.path), "reference_tokens": self.reference.tokens}

    def rehearse(self, candidate: Candidate) -> Rehearsal | Failure:
        """See `Laboratory.rehearse`."""
        found = self._journal.rehearsal(candidate.key)
        if found is None:
            found = self._rehearsed(candidate)
            self._journal.put_rehearsal(candidate.key, found)
        if isinstance(found, Rehearsal) and self.predictor is not None:
            self.predictor.know(candidate, found.reads)
        return found

    def _rehearsed(self, candidate: Candidate) -> Rehearsal | Failure:
        said = self.job("rehearse", candidate, **self._compared())
        if isinstance(said, Failure):
            return said
        try:
            return Rehearsal.from_json(said)
        except (KeyError, TypeError, ValueError) as err:
            return Failure(f"a rehearsal that cannot be read: {err}")

    def _sentinel_of(self, candidate: Candidate) -> Sentinel:
        own = self.sentinel
        return self._sentinels.setdefault(candidate.options.get(OPTION), Sentinel(own.work, own.tolerance))

    def predict(self, candidate: Candidate) -> float | None:
        """See `Laboratory.predict`."""
        return self.predictor.rate(candidate) if self.predictor is not None else None

    def doubt(self, candidate: Candidate) -> float:
        """See `Laboratory.doubt`."""
        found = None if self.predictor is None else doubt(self.predictor, candidate, self._differ)
        return found or 0.0

    def begin_with(self, stands: Candidate, measured: Sequence[Measurement]) -> None:
        """See `Laboratory.begin_with`: the median of the rounds says what each phase takes."""
        self._stands = stands
        if self.predictor is not None:
            ordered = sorted(measured, key=lambda each: each.rate)
            self._differ = (ordered[-1].rate / ordered[0].rate - 1) / 2
            self.predictor.begin_with(stands, typical(ordered))

    def has_time(self, measurements: int) -> bool:
        """See `Laboratory.has_time`: by the median of those so far."""
        each = median(self._spent_s) if self._spent_s else 0.0
        return self._clock() + measurements * each <= self._deadline
