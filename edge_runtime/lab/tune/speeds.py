"""What a token takes with every expert in memory, by threads and tier: probed in processes, nothing read meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from edge_runtime.engine.api import Engine
from edge_runtime.lab.probes import kernels, trunk
from edge_runtime.lab.tune.candidate import Candidate
from edge_runtime.lab.tune.measurement import Failure
from edge_runtime.lab.tune.resident_tokens import resident_token_ms

_SECONDS = 0.5
_ROUNDS = 3
Pair = tuple[int, int]
"""Threads and tier."""


@dataclass(frozen=True)
class ComputeSpeed:
    """Milliseconds of one decoded token with every expert it uses in memory, by phase.

    Attributes:
        trunk_ms: the dense part of every layer, and the head.
        experts_ms: all the experts that a token uses, at the tier in question.
        other_ms: routing, the cache, sampling, Python; None where no whole token could be run: the cache is too small.
    """

    trunk_ms: float
    experts_ms: float
    other_ms: float | None = None

    @property
    def token_ms(self) -> float:
        """All of it that is known."""
        return self.trunk_ms + self.experts_ms + (self.other_ms or 0.0)

    def times(self, factor: float) -> ComputeSpeed:
        """Return a speed of which every phase takes so many times as long."""
        other = None if self.other_ms is None else self.other_ms * factor
        return ComputeSpeed(self.trunk_ms * factor, self.experts_ms * factor, other)


class ComputeSpeeds:
    """Speeds by threads and tier.

    Args:
        known: by (threads, tier).
        rounds: milliseconds of a token in each round that was probed, by the same.
    """

    def __init__(
        self, known: Mapping[Pair, ComputeSpeed], rounds: Mapping[Pair, Sequence[float]] | None = None
    ) -> None:
        self._known, self._rounds = dict(known), dict(rounds or {})

    @property
    def pairs(self) -> list[Pair]:
        """What was probed."""
        return [*self._known]

    def doubt(self, pair: Pair) -> float:
        """Return by what share a probe of a pair may be off: how far the median round lies from what is known."""
        rounds = self._rounds.get(pair)
        return abs(median(rounds) / self._known[pair].token_ms - 1) if rounds else 0.0

    def slower(self, factors: Mapping[Pair, float]) -> ComputeSpeeds:
        """Return what would be known had pairs been probed to take so many times as long."""
        return ComputeSpeeds({pair: speed.times(factors.get(pair, 1.0)) for pair, speed in self._known.items()})

    def of(self, threads: int, tier: int) -> ComputeSpeed | None:
        """Return what was probed, or what follows where only one of the two differs from what was."""
        found = self._known.get((threads, tier))
        alike = found or next((speed for (count, _), speed in self._known.items() if count == threads), None)
        experts_ms = self._experts(threads, tier)
        if alike is None or experts_ms is None:
            return None
        return ComputeSpeed(alike.trunk_ms, experts_ms, alike.other_ms)  # the tier changes neither

    def _experts(self, threads: int, tier: int) -> float | None:
        """Milliseconds of experts; where only one of the two was probed, by ratios of the others."""
        found = self._known.get((threads, tier))
        if found is not None:
            return found.experts_ms
        for (count, base), speed in self._known.items():
            same_tier, neither = self._known.get((threads, base)), self._known.get((count, tier))
            if same_tier is not None and neither is not None and speed.experts_ms:
                return same_tier.experts_ms * neither.experts_ms / speed.experts_ms
        return None

    def to_json(self) -> list[dict[str, Any]]:
        """Return plain data."""
        return [
            {"threads": n, "tier": tier, **asdict(speed), "rounds_token_ms": [*self._rounds.get((n, tier), ())]}
            for (n, tier), speed in self._known.items()
        ]


def probe(
    job: Callable[[Candidate], dict[str, Any] | Failure], pairs: Iterable[Pair], *, rounds: int = _ROUNDS
) -> ComputeSpeeds:
    """Probe pairs of threads and tier some times in turn, and keep the fastest of each, which others disturbed least.

    One that fails is left out, and nothing is predicted from it.

    Args:
        job: opens an engine with a candidate's options in a process, and returns what `measure` does.
        pairs: of threads and tier.
        rounds: how often each is probed.
    """
    known: dict[Pair, ComputeSpeed] = {}
    spent: dict[Pair, list[float]] = {}
    wanted = list(pairs)
    for threads, tier in wanted * rounds:  # in turn, so that load meets all of them alike
        said = job(Candidate.of({"threads": threads, "tier": tier}))
        if isinstance(said, Failure):
            continue
        found = ComputeSpeed(said["trunk_ms"], said["experts_ms"], said["other_ms"])
        spent.setdefault((threads, tier), []).append(round(found.token_ms, 6))
        before = known.get((threads, tier))
        if before is None or found.token_ms < before.token_ms:
            known[threads, tier] = found
    return ComputeSpeeds(known, spent)


def measure(engine: Engine, token: int, position: int) -> dict[str, float | None]:
    """Return the speed of an open engine as plain data: of whole tokens, else of its parts one by one.

    Args:
        engine: reads nothing ahead.
        token: any one.
        position: tokens before those that are timed.

    Raises:
        DeviceError: its cache does not hold one layer's experts.
    """
    whole = resident_token_ms(engine, token, position, _SECONDS)
    if whole is not None:
        return {f"{name}_ms": round(whole[name], 6) for name in ("trunk", "experts", "other")}
    parts = engine.parts
    layer_ms = kernels.measure(parts, 1, _SECONDS).layer_ms
    trunk_ms = round(trunk.measure(parts, _SECONDS).total_ms, 6)
    return asdict(ComputeSpeed(trunk_ms, round(layer_ms * len(parts.spec.sparse_layers), 6)))
