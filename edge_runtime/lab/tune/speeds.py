"""How fast this machine computes a bundle with other threads or tiers: probed in processes, nothing read meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edge_runtime.engine.api import Engine
from edge_runtime.lab.probes import kernels, trunk
from edge_runtime.lab.tune.candidate import Candidate
from edge_runtime.lab.tune.measurement import Failure

_SECONDS = 0.3


@dataclass(frozen=True)
class ComputeSpeed:
    """Milliseconds of one token: the trunk, and the experts of one layer, all in memory."""

    trunk_ms: float
    experts_ms: float


class ComputeSpeeds:
    """Speeds by threads and tier.

    Args:
        known: by (threads, tier).
    """

    def __init__(self, known: Mapping[tuple[int, int], ComputeSpeed]) -> None:
        self._known = dict(known)

    def trunk(self, threads: int, tier: int) -> float | None:
        """Return milliseconds of the trunk; the tier of experts does not change it."""
        found = self._known.get((threads, tier)) or next(
            (speed for (count, _), speed in self._known.items() if count == threads), None
        )
        return None if found is None else found.trunk_ms

    def experts(self, threads: int, tier: int) -> float | None:
        """Return milliseconds of one layer's experts; where only one of the two was probed, by ratios of the others."""
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
    """Probe pairs of threads and tier; one that fails is left out, and nothing is predicted from it.

    Args:
        job: opens an engine with a candidate's options in a process, and returns what `measure` does.
        pairs: of threads and tier.
    """
    known = {}
    for threads, tier in pairs:
        said = job(Candidate.of({"threads": threads, "tier": tier}))
        if not isinstance(said, Failure):
            known[threads, tier] = ComputeSpeed(said["trunk_ms"], said["experts_ms"])
    return ComputeSpeeds(known)


def measure(engine: Engine) -> dict[str, float]:
    """Return the speed of an open engine as plain data.

    Raises:
        DeviceError: its cache does not hold one layer's experts.
    """
    parts = engine.parts
    experts = kernels.measure(parts, 1, _SECONDS).layer_ms
    return asdict(ComputeSpeed(round(trunk.measure(parts, _SECONDS).total_ms, 6), experts))
