"""What is said of power and energy, as plain data. What was not measured is absent or None, never 0."""

from __future__ import annotations

from typing import Any

from edge_runtime.telemetry.power.energy import total_of
from edge_runtime.telemetry.power.sampler import PowerSampler

_DIGITS = 6


def energy_json(sampler: PowerSampler | None, start_ns: int, end_ns: int, tokens: int | None) -> dict[str, Any] | None:
    """Return the contract's `energy` object for a stretch of time; None if nothing was measured.

    Args:
        sampler: None without a meter.
        start_ns: `monotonic_ns` at its start.
        end_ns: the same at its end.
        tokens: generated in it; None: the energy belongs to more than these tokens.
    """
    window = None if sampler is None else sampler.window(start_ns, end_ns)
    if sampler is None or window is None:
        return None
    total = window.total
    return {
        "joules": _rounded(total),
        "joules_per_token": _rounded(total / tokens) if total is not None and tokens else None,
        "mean_w": _rounded(window.mean_w),
        "idle_w": _rounded(sampler.idle_w),
        "rails": {
            rail: {"joules": _rounded(joules), "mean_w": _rounded(window.watts[rail])}
            for rail, joules in window.joules.items()
        },
        "method": sampler.info.method,
        "covers": sampler.info.covers,
        "hz": sampler.hz,
        "samples": window.samples,
    }


def live_json(sampler: PowerSampler | None) -> dict[str, Any] | None:
    """Return power now and energy since the start; None without a meter."""
    if sampler is None:
        return None
    watts, joules = sampler.now()
    return {
        "watts": _rounded(total_of(sampler.info, watts)),
        "joules": _rounded(total_of(sampler.info, joules)),
        "idle_w": _rounded(sampler.idle_w),
        "rails": {
            rail: {"watts": _rounded(watts.get(rail)), "joules": _rounded(joules.get(rail))}
            for rail in sampler.info.rails
        },
        "method": sampler.info.method,
        "covers": sampler.info.covers,
        "hz": sampler.hz,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
