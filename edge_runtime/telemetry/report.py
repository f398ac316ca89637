"""RunReport: what one run measured, as the output contract's JSON. What was not measured is None, never 0."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Timings:
    """Wall-clock times of one request, in milliseconds; rates in tokens per second."""

    load_ms: float | None = None
    prompt_n: int = 0
    prompt_ms: float = 0.0
    cached_n: int = 0
    token_ms: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the `timings` object. The first token comes with the prompt, so n tokens need n - 1 decode steps."""
        decode_ms = sum(self.token_ms[1:])
        steps = max(len(self.token_ms) - 1, 0)
        gaps = self.token_ms[1:]
        itl = {f"p{q}": round(float(np.percentile(gaps, q)), 3) if gaps else None for q in (50, 90, 99)}
        return {
            "load_ms": _rounded(self.load_ms),
            "prompt_n": self.prompt_n,
            "cached_n": self.cached_n,
            "prompt_ms": _rounded(self.prompt_ms),
            "prompt_per_second": _rate(self.prompt_n, self.prompt_ms),
            "predicted_n": len(self.token_ms),
            "predicted_ms": _rounded(decode_ms),
            "predicted_per_second": _rate(steps, decode_ms),
            "ttft_ms": _rounded(self.prompt_ms + self.token_ms[0]) if self.token_ms else None,
            "itl_ms": itl,
        }


@dataclass(frozen=True)
class RunReport:
    """One finished request.

    `passed_over` says why backends whose hardware is there were not used, by name; `choices` what the backend in use
    chose, and why; `speculation` what became of drafts, None where the engine has none.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    model: dict[str, Any]
    policy: dict[str, Any]
    backend: str
    timings: dict[str, Any]
    experts: dict[str, Any]
    memory: dict[str, Any]
    energy: dict[str, Any] | None = None
    passed_over: dict[str, str] = field(default_factory=dict)
    choices: dict[str, Any] = field(default_factory=dict)
    speculation: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data in the contract's key order."""
        return dict(self.__dict__)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _rate(count: int, milliseconds: float) -> float | None:
    return round(1000 * count / milliseconds, 3) if milliseconds > 0 and count > 0 else None
