"""What a token takes with every expert in memory, by threads and tier: probed in processes, nothing read meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edge_runtime.engine.api import Engine
from edge_runtime.lab.probes import kernels, trunk
from edge_runtime.lab.tune.candidate import Candidate
from edge_runtime.lab.tune.measurement import Failure
from edge_runtime.lab.tune.resident_tokens import resident_token_ms

_SECONDS = 0.5
_ROUNDS = 3


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


class ComputeSpeeds:
    """Speeds by threads and tier.

    Args:
        known: by (threads, tier).
    """

    def __init__(self, known: Mapping[tuple[int, int], ComputeSpeed]) -> None:
        self._known = dict(known)

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
        return [{"threads": n, "tier": tier, **asdict(speed)} for (n, tier), speed in self._known.items()]


def probe(job: Callable[[Candidate], dict[str, Any] | Failure], pairs: Iterable[tuple[int, int]]) -> ComputeSpeeds:
    """Probe pairs of threads and tier some times in turn, and keep the fastest of each, which others disturbed least.

    One that fails is left out, and nothing is predicted from it.

    Args:
        job: opens an engine with a candidate's options in a process, and returns what `measure` does.
        pairs: of threads and tier.
    """
    known: dict[tuple[int, int], ComputeSpeed] = {}
    wanted = list(pairs)
    for threads, tier in wanted * _ROUNDS:  # in turn, so that load meets all of them alike
        said = job(Candidate.of({"threads": threads, "tier": tier}))
        if isinstance(said, Failure):
            continue
        found = ComputeSpeed(said["trunk_ms"], said["experts_ms"], said["other_ms"])
        before = known.get((threads, tier))
        if before is None or found.token_ms < before.token_ms:
            known[threads, tier] = found
    return ComputeSpeeds(known)


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
