"""Many texts at once through the serving core: scored, or continued."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from edge_runtime.base.arrays import I32
from edge_runtime.engine.api import Engine
from edge_runtime.engine.job import Event, Job, LogitsEvent, TokenEvent
from edge_runtime.engine.observer import SchedulerObserver
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.engine.sessions import SessionPool
from edge_runtime.lab.evaluation import log_softmax

Tell = Callable[[int], None]
"""Called with the number of a text that is done."""


class Scored(NamedTuple):
    """How likely a continuation is: the sum of its tokens' log probabilities, and whether each was the likeliest."""

    logprob: float
    is_greedy: bool


class Text(NamedTuple):
    """Tokens to run, and those to score: the last `len(targets)` of the run predict one of them each."""

    tokens: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass
class _Running:
    """What is known so far of texts that run the same tokens: number of a text -> its targets' figures."""

    targets: dict[int, tuple[int, ...]] = field(default_factory=dict)
    logprobs: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    hits: dict[int, list[bool]] = field(default_factory=lambda: defaultdict(list))

    def add(self, length: int, event: LogitsEvent) -> None:
        """Look at the rows of a chunk that predict a target."""
        first = length - max(map(len, self.targets.values()))
        rows = event.logits[max(0, first - event.start) :]
        at = event.start + len(event.logits) - len(rows)
        scores = log_softmax(rows)
        for number, targets in self.targets.items():
            begin = length - len(targets)
            for position, row in enumerate(scores, at):
                if position >= begin:
                    target = targets[position - begin]
                    self.logprobs[number].append(float(row[target]))
                    self.hits[number].append(int(row.argmax()) == target)


class Batch:
    """Takes an engine's serving core for good; as many texts run together as the engine's `parallel`."""

    def __init__(self, engine: Engine) -> None:
        self._chunk = engine.parts.logits_chunk
        self._scheduler = engine.hand_over(SessionPool.of(engine.parts), SchedulerObserver())
        self._error: Exception | None = None

    def score(self, texts: Sequence[Text], tell: Tell = lambda number: None) -> list[Scored]:
        """Score texts; those that run the same tokens, such as choices of one token, run once."""
        groups: dict[tuple[int, ...], _Running] = defaultdict(_Running)
        for number, text in enumerate(texts):
            groups[text.tokens].targets[number] = text.targets
        self._run(self._scoring(tokens, running, tell) for tokens, running in groups.items())
        found = {number: running for running in groups.values() for number in running.targets}
        return [Scored(sum(found[i].logprobs[i]), all(found[i].hits[i])) for i in range(len(texts))]

    def generate(
        self, prompts: Sequence[tuple[Sequence[int], SamplingParams]], tell: Tell = lambda number: None
    ) -> list[str]:
        """Continue prompts; return what was written."""
        texts: list[list[str]] = [[] for _ in prompts]
        self._run(
            Job(np.asarray(ids, np.int32), params, self._writing(number, texts[number], tell))
            for number, (ids, params) in enumerate(prompts)
        )
        return ["".join(written) for written in texts]

    def _scoring(self, tokens: tuple[int, ...], running: _Running, tell: Tell) -> Job:
        ids: I32 = np.asarray(tokens, np.int32)

        def deliver(event: Event) -> None:
            if isinstance(event, LogitsEvent):
                running.add(len(ids), event)
            elif not self._failed(event):
                for number in running.targets:
                    tell(number)

        return Job(ids, SamplingParams(), deliver, score_chunk=self._chunk)

    def _writing(self, number: int, written: list[str], tell: Tell) -> Callable[[Event], None]:
        def deliver(event: Event) -> None:
            if isinstance(event, TokenEvent):
                written.append(event.delta.text)
            elif not self._failed(event):
                tell(number)

        return deliver

    def _failed(self, event: Event) -> bool:
        if isinstance(event, Exception):
            self._error = self._error or event
        return isinstance(event, Exception)

    def _run(self, jobs: Iterable[Job]) -> None:
        """Run jobs to their end; the first that fails ends all."""
        waiting = iter(jobs)
        try:
            while self._scheduler.step(lambda: next(waiting, None)):
                if self._error is not None:
                    break
            if self._error is not None:
                raise self._error
        finally:
            self._error = None
            self._scheduler.drop_all()
