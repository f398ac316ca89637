"""What a candidate would give, from one measurement, probes and replays of a trace: no run of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.lab.tune.candidate import Candidate
from edge_runtime.lab.tune.measurement import Measurement

_COMPUTE = ("trunk", "experts")
_UNPREDICTED = ("prefetch", "overlap")
"""Whether these pay is a matter of time that a replay does not have."""


@dataclass(frozen=True)
class ReplaySetting:
    """What of a candidate a replay depends on.

    Attributes:
        num_slots: S.
        eviction, policy: with parameters.
        tier: the full one.
    """

    num_slots: int
    eviction: str
    policy: str
    tier: int


@dataclass(frozen=True)
class Reads:
    """What a replay says of reads: bytes a token, and waits (batches of reads) a token."""

    bytes_per_token: float
    batches_per_token: float


@dataclass(frozen=True)
class DriveRates:
    """What the drive gives.

    Attributes:
        gb_s: by (read_chunk, io_threads, direct), as the grid of the probe measured it.
        latency_us: of a small read.
    """

    gb_s: Callable[[int, int, bool], float]
    latency_us: float

    def wait_ms(self, reads: Reads, chunk: int, depth: int, *, direct: bool) -> float:
        """Return milliseconds of reading a token, with nothing computed meanwhile."""
        rate = self.gb_s(chunk, depth, direct)
        return reads.bytes_per_token / rate / 1e6 + reads.batches_per_token * self.latency_us / 1e3


@dataclass
class Predictor:
    """Predicts rates from what stands.

    Attributes:
        present: options in force where a candidate says nothing: read_chunk, io_threads, direct_io, eviction, policy,
            tier, threads and num_slots.
        slot_bytes: of an expert, by tier.
        measured: of the candidate without changes.
        replay: replays the trace; None where nothing is read.
        drive: what it gives; None where it could not be probed.
        memory_gb_s: read rate of memory by threads; {} if it was not probed.
    """

    present: Mapping[str, Any]
    slot_bytes: Mapping[int, int]
    measured: Measurement
    replay: Callable[[ReplaySetting], Reads] | None = None
    drive: DriveRates | None = None
    memory_gb_s: Mapping[int, float] = field(default_factory=dict)

    def rate(self, candidate: Candidate) -> float | None:
        """Return tokens a second; None for what cannot be predicted, such as reading ahead."""
        changed = candidate.options
        if any(name in changed for name in _UNPREDICTED):
            return None
        settings = {**self.present, **changed}
        phases = dict(self.measured.phase_ms)
        if "threads" in changed:
            factor = self._slower(int(settings["threads"]))
            if factor is None:
                return None
            phases |= {name: factor * phases.get(name, 0.0) for name in _COMPUTE}
        if changed.keys() - {"threads"}:
            wait = self._wait(settings)
            if wait is None:
                return None
            phases["read_wait"] = wait
        total = sum(phases.values())
        return 1000 / total if total > 0 else None

    def _slower(self, threads: int) -> float | None:
        """By how much computing takes longer, as far as memory decides it."""
        now, then = (self.memory_gb_s.get(n) for n in (int(self.present["threads"]), threads))
        return now / then if now and then else None

    def _wait(self, settings: Mapping[str, Any]) -> float | None:
        """The measured wait, changed as the model of the drive changes; the model's own where there was none."""
        if self.replay is None or self.drive is None:
            return None
        model, own_model = self._model(settings), self._model(self.present)
        measured = self.measured.phase_ms.get("read_wait", 0.0)
        return measured * model / own_model if own_model > 0 and measured > 0 else model

    def _model(self, settings: Mapping[str, Any]) -> float:
        assert self.replay is not None
        assert self.drive is not None
        tier = int(settings["tier"])
        slots = int(settings["num_slots"]) * self.slot_bytes[int(self.present["tier"])] // self.slot_bytes[tier]
        if "expert_memory" in settings:
            slots = min(slots, int(settings["expert_memory"]) // self.slot_bytes[tier])
        reads = self.replay(ReplaySetting(slots, str(settings["eviction"]), str(settings["policy"]), tier))
        return self.drive.wait_ms(
            reads, int(settings["read_chunk"]), int(settings["io_threads"]), direct=bool(settings["direct_io"])
        )
