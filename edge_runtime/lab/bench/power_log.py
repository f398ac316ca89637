"""Power during a benchmark: sampled from before the engine opens until the last request, idle time first."""

from __future__ import annotations

from time import monotonic_ns, sleep
from typing import Any

from edge_runtime.telemetry.power import MeterChoice
from edge_runtime.telemetry.power.energy import Window
from edge_runtime.telemetry.power.sampler import PowerSampler, start_sampler

_KEEP_S = 12 * 3600.0
_DIGITS = 6


class PowerLog:
    """What a meter said, or why there is none.

    Args:
        sampler: None without a meter.
        reasons: why meters that were tried are not used.
    """

    def __init__(self, sampler: PowerSampler | None = None, reasons: dict[str, str] | None = None) -> None:
        self.sampler, self.reasons = sampler, reasons or {}
        self.began_ns = monotonic_ns()
        self._idle: tuple[int, int] | None = None

    @staticmethod
    def start(choice: MeterChoice) -> PowerLog:
        """Begin to sample.

        Raises:
            DeviceError: a meter asked for by name cannot be read.
        """
        return PowerLog(*start_sampler(choice, _KEEP_S))

    def measure_idle(self, seconds: float) -> None:
        """Do nothing for a while, so that the machine's idle power is known; at once without a meter."""
        if self.sampler is not None and seconds > 0:
            began = monotonic_ns()
            sleep(seconds)
            self._idle = began, monotonic_ns()

    def window(self, start_ns: int, end_ns: int) -> Window | None:
        """Return what was used between two times; None if that was not measured."""
        return None if self.sampler is None else self.sampler.window(start_ns, end_ns)

    @property
    def idle(self) -> Window | None:
        """What was used while nothing ran."""
        return None if self._idle is None else self.window(*self._idle)

    def energy(self, stretches: list[tuple[int, int]], tokens: int) -> dict[str, Any] | None:
        """Return the energy of several stretches of time together; None unless each of them was measured.

        Args:
            stretches: start and end of each, in `monotonic_ns`.
            tokens: what came of all of them.
        """
        found = [self.window(*stretch) for stretch in stretches]
        windows = [window for window in found if window is not None]
        if self.sampler is None or not windows or len(windows) < len(found):
            return None
        seconds = sum(window.seconds for window in windows)
        known = set.intersection(*(set(window.joules) for window in windows))
        joules = {rail: sum(window.joules[rail] for window in windows) for rail in windows[0].joules if rail in known}
        each = [window.total for window in windows]
        total = None if None in each else sum(value for value in each if value is not None)
        return {
            "joules": _rounded(total),
            "joules_per_token": None if total is None or not tokens else _rounded(total / tokens),
            "mean_w": None if total is None else _rounded(total / seconds),
            "rails": {
                rail: {"joules": _rounded(used), "mean_w": _rounded(used / seconds)} for rail, used in joules.items()
            },
            "seconds": _rounded(seconds),
            "samples": sum(window.samples for window in windows),
        }

    def contract_energy(self, stretches: list[tuple[int, int]], tokens: int) -> dict[str, Any] | None:
        """Return `energy` with what the contract's object says beside it."""
        energy = self.energy(stretches, tokens)
        if energy is None or self.sampler is None:
            return None
        info, idle = self.sampler.info, self.idle
        more = {"method": info.method, "covers": info.covers, "hz": self.sampler.hz}
        return energy | {"idle_w": None if idle is None else _rounded(idle.mean_w)} | more

    def to_json(self) -> dict[str, Any]:
        """Return the meter, the idle time and every reading, times in ms since the log began."""
        if self.sampler is None:
            return {"meter": None, "not_measured_because": self.reasons}
        now = monotonic_ns()
        samples = self.sampler.samples(self.began_ns, now)
        idle = self.idle
        return {
            "meter": self.sampler.info.to_json(),
            "hz": self.sampler.hz,
            "not_measured_because": self.reasons,
            "idle": None
            if idle is None or self._idle is None
            else {
                "start_ms": self.since(self._idle[0]),
                "end_ms": self.since(self._idle[1]),
                "mean_w": _rounded(idle.mean_w),
                "rails_w": {rail: _rounded(watts) for rail, watts in idle.watts.items()},
            },
            "samples": {rail: [[self.since(at), _rounded(w)] for at, w in each] for rail, each in samples.items()},
        }

    def since(self, at_ns: int) -> float:
        """Return a time in ms since the log began."""
        return round((at_ns - self.began_ns) / 1e6, 3)

    def close(self) -> None:
        """Stop sampling; what was sampled stays."""
        if self.sampler is not None:
            self.sampler.close()


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
