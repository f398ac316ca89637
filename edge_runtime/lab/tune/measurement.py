"""Measurement: what one run of a candidate gave. Plain data, so that it goes through a pipe and into the journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

from edge_runtime.base.strict import from_mapping


@dataclass(frozen=True)
class Workload:
    """What is run to measure, the same for every candidate.

    Attributes:
        prompts: token ids of each request.
        gen_tokens: generated after each.
        seed: of sampling.
        temperature: of sampling.
        warmup: requests before them that do not count.
    """

    prompts: list[list[int]]
    gen_tokens: int
    seed: int = 0
    temperature: float = 1.0
    warmup: int = 1


@dataclass(frozen=True)
class Measurement:
    """What a process measured that opened a candidate and ran the workload once.

    Attributes:
        tok_s: decode rate of each request.
        ttft_ms: of each request.
        p99_ms: 99th percentile of the time between tokens of all requests.
        digest: of every token generated.
        phase_ms: milliseconds a decoded token by phase; they add up to its time.
        bytes_per_token: read while decoding.
        read_busy_ms: milliseconds a token in which the drive had something to read, whether or not anybody waited.
        hit_rate: of lookups while decoding.
        resident_ms: milliseconds by phase of a token that finds every expert in memory, timed in the same process
            behind the requests; None where that was not asked for, or its cache is too small for any.
        kld: nats a token against the reference, where that was asked for.
        peak_rss_bytes: of the process.
        celsius: the hottest sensor when it began; None without one.
        clock: rate of the fixed load, of its first rate.
        is_disturbed: the clock was off, and stayed so when the round was repeated.
    """

    tok_s: list[float]
    ttft_ms: list[float]
    p99_ms: float
    digest: str
    phase_ms: dict[str, float] = field(default_factory=dict)
    bytes_per_token: float = 0.0
    read_busy_ms: float = 0.0
    hit_rate: float | None = None
    resident_ms: dict[str, float] | None = None
    kld: float | None = None
    peak_rss_bytes: int = 0
    celsius: float | None = None
    clock: float | None = None
    is_disturbed: bool = False

    @property
    def rate(self) -> float:
        """Tokens a second: the median of the requests."""
        return median(self.tok_s)

    @property
    def token_ms(self) -> float:
        """Milliseconds of a decoded token, all phases."""
        return sum(self.phase_ms.values())

    @property
    def resident_token_ms(self) -> float | None:
        """Milliseconds of a token that finds every expert in memory; None where that is not known."""
        return sum(self.resident_ms.values()) if self.resident_ms else None

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` takes back."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any], where: str) -> Measurement:
        """Return what `to_json` wrote.

        Raises:
            ValueError: it did not write this.
        """
        return from_mapping(Measurement, data, where)


def typical(rounds: Sequence[Measurement]) -> Measurement:
    """Return a measurement of which each time is the median of several rounds.

    A round, and what is timed behind it, may each be slow by chance: no round has to be right in everything.

    Args:
        rounds: of one candidate, one at least.
    """
    middle = sorted(rounds, key=lambda each: each.rate)[len(rounds) // 2]
    timed = [each.resident_ms for each in rounds if each.resident_ms]
    return replace(
        middle,
        phase_ms=_medians([each.phase_ms for each in rounds]),
        read_busy_ms=median(each.read_busy_ms for each in rounds),
        resident_ms=_medians(timed) if timed else None,
    )


def _medians(times: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: median(each.get(name, 0.0) for each in times) for name in times[0]}


@dataclass(frozen=True)
class Failure:
    """A candidate that could not be measured: refused, killed, or too slow to wait for."""

    why: str


def median_of(values: Sequence[float]) -> float:
    """Return the median, 0 without values."""
    return median(values) if values else 0.0
