"""Whether a candidate takes the place of what it was measured against. Pure arithmetic on measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from edge_runtime.lab.tune.measurement import Measurement


@dataclass(frozen=True)
class Terms:
    """What has to hold.

    Attributes:
        least_gain: of the median rate.
        most_slower: TTFT and the 99th percentile of gaps may grow to so many times what they were.
        most_lost: how often a round may go the other way: a share of the rounds.
        max_kld: nats a token a lossy candidate may cost; None: nothing may change.
    """

    least_gain: float = 0.03
    most_slower: float = 1.2
    most_lost: float = 1 / 3
    max_kld: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What became of a candidate.

    Attributes:
        is_accepted: it takes the place of the other.
        gain: median over rounds of its rate by the other's in the same round, less 1.
        spread: half the distance between the least and the greatest of those.
        reasons: why not; () if accepted.
    """

    is_accepted: bool
    gain: float
    spread: float
    reasons: tuple[str, ...] = ()


def judge(before: Sequence[Measurement], after: Sequence[Measurement], terms: Terms) -> Verdict:
    """Compare two candidates that were measured in turn, round by round.

    Args:
        before: of what stands.
        after: of the candidate, as many.
        terms: what has to hold.
    """
    pairs = list(zip(before, after, strict=True))
    ratios = [new.rate / old.rate for old, new in pairs]
    gain, spread = median(ratios) - 1, (max(ratios) - min(ratios)) / 2
    reasons = [*_speed(gain, ratios, terms), *_delays(before, after, terms), *_output(before, after, terms)]
    return Verdict(not reasons, gain, spread, tuple(reasons))


def _speed(gain: float, ratios: Sequence[float], terms: Terms) -> list[str]:
    if gain < terms.least_gain:
        return [f"{100 * gain:+.1f} % tok/s, below the {100 * terms.least_gain:g} % that count"]
    lost = sum(ratio <= 1 for ratio in ratios)
    if lost > terms.most_lost * len(ratios):
        return [f"faster in the median, but not in {lost} of {len(ratios)} rounds"]
    return []


def _delays(before: Sequence[Measurement], after: Sequence[Measurement], terms: Terms) -> list[str]:
    found = []
    for name, old, new in (
        ("time to the first token", _ttft(before), _ttft(after)),
        ("99th percentile between tokens", _p99(before), _p99(after)),
    ):
        if new > terms.most_slower * old:
            found.append(f"{name} {new:.1f} ms, from {old:.1f}: more than {100 * (terms.most_slower - 1):g} % slower")
    return found


def _ttft(measurements: Sequence[Measurement]) -> float:
    return median(value for each in measurements for value in each.ttft_ms)


def _p99(measurements: Sequence[Measurement]) -> float:
    return median(each.p99_ms for each in measurements)


def _output(before: Sequence[Measurement], after: Sequence[Measurement], terms: Terms) -> list[str]:
    if terms.max_kld is None:
        if len({each.digest for each in (*before, *after)}) > 1:
            return ["what it says is not the same, byte by byte"]
        return []
    klds = [each.kld for each in after if each.kld is not None]
    if not klds:
        return ["its KL divergence was not measured"]
    if max(klds) > terms.max_kld:
        return [f"KL divergence {max(klds):.4f} nats a token, above the budget of {terms.max_kld:g}"]
    return []
