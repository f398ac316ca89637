"""Reads a power meter in the background at a stated rate, and answers what a stretch of time took."""

from __future__ import annotations

import logging
import threading
from time import monotonic_ns

from edge_runtime.telemetry.power import MeterChoice, find_meter
from edge_runtime.telemetry.power.base import MeterInfo, PowerMeter
from edge_runtime.telemetry.power.energy import EnergyLog, Window, total_of

_LOG = logging.getLogger(__name__)
KEEP_S = 1200.0
"""Readings are kept that long: longer than a request may take by default."""
MAX_KEEP = 500_000


class PowerSampler:
    """Samples a meter until it is closed. Every method is safe from any thread.

    Args:
        meter: closed with the sampler.
        hz: readings a second.
        keep_s: how long readings are kept at least.
    """

    def __init__(self, meter: PowerMeter, hz: float, keep_s: float = KEEP_S) -> None:
        self._meter, self.hz = meter, hz
        self.info: MeterInfo = meter.info
        self._log = EnergyLog(self.info, int(1e9 / hz), int(min(hz * keep_s, MAX_KEEP)))
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._reading = threading.Lock()  # one reading after the other, noted in their order
        self._idle = _IdleTime()
        self._thread = threading.Thread(target=self._run, name="hobbit-power", daemon=True)

    def start(self) -> PowerSampler:
        """Begin to sample; the first reading is there when this returns."""
        self._sample()
        self._thread.start()
        return self

    def _run(self) -> None:
        interval = 1 / self.hz
        while not self._wake.wait(interval):
            self._sample()

    def _sample(self) -> None:
        with self._reading:
            if self._wake.is_set():
                return  # closed
            before = monotonic_ns()
            values = self._meter.read()
            at_ns = (before + monotonic_ns()) // 2
            with self._lock:
                self._log.add(at_ns, values)
                self._idle.note(at_ns, self._log)

    def window(self, start_ns: int, end_ns: int) -> Window | None:
        """Return what was used between two readings of `monotonic_ns`; None if that was not measured.

        On a busy machine the sampling thread may be late: then the meter is read here, so that the end has a figure.
        """
        with self._lock:
            is_late = not self._log.reaches(end_ns)
        if is_late:
            self._sample()
        with self._lock:
            return self._log.window(start_ns, end_ns)

    def samples(self, start_ns: int, end_ns: int) -> dict[str, list[tuple[int, float]]]:
        """Return the readings of each rail between two times: when, and watts."""
        with self._lock:
            return self._log.samples(start_ns, end_ns)

    def set_running(self, requests: int) -> None:
        """Say how many requests run from now on; while none does, the machine's power is its idle power."""
        with self._lock:
            self._idle.set_busy(is_busy=requests > 0)

    @property
    def idle_w(self) -> float | None:
        """Mean power while nothing ran; None if that was never measured."""
        with self._lock:
            return self._idle.watts

    def now(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return each rail's power at the last reading, and its joules since the start; what is unknown is absent."""
        with self._lock:
            return self._log.latest_watts(), self._log.joules_so_far()

    def close(self) -> None:
        """Stop sampling. Safe to call twice."""
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._reading:
            self._meter.close()


class _IdleTime:
    """Energy and time of intervals between two readings in which nothing ran at all."""

    def __init__(self) -> None:
        self._joules, self._ns = 0.0, 0
        self._since: int | None = None
        self._is_busy, self._was_busy = True, True

    def set_busy(self, *, is_busy: bool) -> None:
        self._is_busy = is_busy
        self._was_busy = self._was_busy or is_busy

    def note(self, at_ns: int, log: EnergyLog) -> None:
        """Take the interval that ends with a reading into account if nothing ran in it."""
        if self._since is not None and not self._was_busy:
            watts = total_of(log.info, log.latest_watts())
            if watts is not None:
                self._joules += watts * (at_ns - self._since) / 1e9
                self._ns += at_ns - self._since
        self._since, self._was_busy = at_ns, self._is_busy

    @property
    def watts(self) -> float | None:
        return self._joules / self._ns * 1e9 if self._ns else None


def start_sampler(choice: MeterChoice, keep_s: float = KEEP_S) -> tuple[PowerSampler | None, dict[str, str]]:
    """Find the meter that was asked for and sample it; also return why others are not used.

    Raises:
        DeviceError: a meter asked for by name cannot be read.
    """
    found = find_meter(choice)
    for name, reason in found.reasons.items():
        _LOG.debug("power meter %s is not used: %s", name, reason)
    if found.meter is None:
        return None, found.reasons
    return PowerSampler(found.meter, choice.hz, keep_s).start(), found.reasons
