"""Two reports side by side: what changed, by how much, and whether that is more than noise. Pure but for reading them.

The interval of a change is the percentile bootstrap (Efron 1979) of the ratio of two medians over requests, with a
fixed seed. A change counts if its interval leaves out zero and it is larger than what the sentinels of both runs moved
by themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge_runtime.base.arrays import F64
from edge_runtime.base.errors import RequestError
from edge_runtime.base.sizes import MIB
from edge_runtime.lab.bench.folder import JSON_NAME
from edge_runtime.lab.bench.result import FORMAT_VERSION
from edge_runtime.telemetry.samples import percentiles, rounded

MAX_REPORT_BYTES = 512 * MIB
LEAST_REQUESTS = 3
_RESAMPLES, _SEED = 4000, 20261129
_INTERVAL = (2.5, 97.5)

Samples = Callable[[Mapping[str, Any]], Sequence[float | None]]


class Metric(NamedTuple):
    """Something two reports are compared by.

    Attributes:
        name: for people.
        unit: of its values.
        more_is_better: else less is.
        samples: one value a request of a `bench` object; None: not measured.
    """

    name: str
    unit: str
    more_is_better: bool
    samples: Samples


def _stat(key: str) -> Samples:
    return lambda bench: bench["stats"][key]["samples"]


def _gap(which: int) -> Samples:
    return lambda bench: [percentiles(gaps, (which,))[0] for gaps in bench["gap_ms_samples"]]


def _energy(stage: str) -> Samples:
    return lambda bench: [(r["energy"][stage] or {}).get("joules_per_token") for r in bench["requests"]]


METRICS = (
    Metric("time to first token", "ms", False, _stat("ttft_ms")),
    Metric("prefill", "tok/s", True, _stat("prefill_tok_s")),
    Metric("decode", "tok/s", True, _stat("decode_tok_s")),
    Metric("inter-token p50", "ms", False, _gap(50)),
    Metric("inter-token p99", "ms", False, _gap(99)),
    Metric("bytes a decoded token", "B", False, _stat("bytes_per_decoded_token")),
    Metric("hit rate", "", True, _stat("hit_rate")),
    Metric("energy a prompt token", "J", False, _energy("prefill")),
    Metric("energy a decoded token", "J", False, _energy("decode")),
)


def read_report(folder: Path) -> dict[str, Any]:
    """Return the object of a report: its folder, or the JSON file itself.

    Raises:
        RequestError: it cannot be read, is none, or an earlier version wrote it.
    """
    path = folder / JSON_NAME if folder.is_dir() else folder
    try:
        if path.stat().st_size > MAX_REPORT_BYTES:
            raise RequestError(f"compare: {path}: expected a report of at most {MAX_REPORT_BYTES} bytes, got more.")
        found = json.loads(path.read_bytes())
        version = found["bench"]["format_version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as err:
        raise RequestError(f"compare: {path}: expected a report of `hobbit bench`: {err}. Name its folder.") from err
    if version != FORMAT_VERSION:
        raise RequestError(
            f"compare: {path}: expected a report of format {FORMAT_VERSION}, got {version!r}. Measure again."
        )
    report: dict[str, Any] = found
    return report


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a second report differs from a first: every metric both have, and what else is not the same.

    Raises:
        RequestError: one of them lacks what a report has.
    """
    try:
        drift = max(_drift(a["bench"]), _drift(b["bench"]))
        metrics = [row for metric in METRICS if (row := _row(metric, a["bench"], b["bench"], drift)) is not None]
        return {
            "a": _name(a),
            "b": _name(b),
            "sentinel_drift_percent": rounded(drift),
            "metrics": metrics,
            "differs": differences(a, b),
            "warnings": [f"A: {w}" for w in a["bench"]["warnings"]] + [f"B: {w}" for w in b["bench"]["warnings"]],
        }
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, ArithmeticError) as err:
        raise RequestError(f"compare: a report is incomplete or damaged: {err!r:.200}. Measure again.") from err


def _drift(bench: Mapping[str, Any]) -> float:
    return abs(float(bench["sentinel"]["change_percent"] or 0.0))


def _name(report: Mapping[str, Any]) -> dict[str, Any]:
    bench = report["bench"]
    return {"bundle": bench["prompts"]["bundle"], "measured_at": bench["measured_at"], "command": bench["command"]}


def _row(metric: Metric, a: Mapping[str, Any], b: Mapping[str, Any], drift: float) -> dict[str, Any] | None:
    before, after = _known(metric.samples(a)), _known(metric.samples(b))
    if before is None or after is None:
        return None
    middle = float(np.median(before)), float(np.median(after))
    row: dict[str, Any] = {
        "metric": metric.name, "unit": metric.unit, "a": rounded(middle[0]), "b": rounded(middle[1]),
        "n": [len(before), len(after)], "change_percent": None, "interval_percent": None,
    }  # fmt: skip
    if middle[0] <= 0:
        return row | {"verdict": "same" if middle[0] == middle[1] else "no ratio"}
    change = 100 * (middle[1] / middle[0] - 1)
    low, high = ratio_interval(before, after)
    few = min(len(before), len(after)) < LEAST_REQUESTS
    is_more_than_noise = (low > 0 or high < 0) and abs(change) > drift
    verdict = "better" if (change > 0) == metric.more_is_better else "worse"
    return row | {
        "change_percent": rounded(change),
        "interval_percent": None if few else [rounded(low), rounded(high)],
        "verdict": "too few requests" if few else verdict if is_more_than_noise else "within noise",
    }


def _known(samples: Sequence[float | None]) -> F64 | None:
    """Return float64 [n] of samples all of which were measured; None otherwise."""
    if not samples or any(value is None for value in samples):
        return None
    return np.array(samples, np.float64)


def ratio_interval(before: F64, after: F64) -> tuple[float, float]:
    """Return the 95 % interval, in percent, of the change of the median from float64 [n] to float64 [m]."""
    random = np.random.default_rng(_SEED)
    old = np.median(random.choice(before, (_RESAMPLES, len(before))), axis=1)
    new = np.median(random.choice(after, (_RESAMPLES, len(after))), axis=1)
    ratios = new[old > 0] / old[old > 0]
    low, high = np.percentile(100 * (ratios - 1), _INTERVAL)
    return float(low), float(high)


_COMPARED = (
    ("policy", ("policy",)), ("backend", ("backend",)), ("memory", ("memory", "budget_bytes")),
    ("settings", ("bench", "settings")), ("prompts", ("bench", "prompts")), ("engine", ("bench", "engine")),
    ("hardware", ("bench", "hardware")), ("versions", ("bench", "versions")), ("model", ("model",)),
)  # fmt: skip


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was not the same: settings, machine, versions, power mode."""
    found = [row for name, path in _COMPARED for row in _unequal(name, _at(a, path), _at(b, path))]
    return [*found, *_unequal("power mode", _mode(a), _mode(b))]


def _mode(report: Mapping[str, Any]) -> Any:
    conditions = report["bench"]["requests"][0]["conditions_before"]
    return conditions and conditions["power_mode"]


def _at(report: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = report
    for key in path:
        value = value[key]
    return value


def _unequal(name: str, a: Any, b: Any) -> list[dict[str, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = dict.fromkeys([*a, *b])
        return [row for key in keys for row in _unequal(f"{name}.{key}", a.get(key), b.get(key))]
    return [] if a == b else [{"what": name, "a": a, "b": b}]
