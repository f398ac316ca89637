"""What a candidate would give, from a measurement of what stands, probes and replays of the workload: no run of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.lab.tune.candidate import Candidate
from edge_runtime.lab.tune.measurement import Measurement
from edge_runtime.lab.tune.read_times import ReadTimes
from edge_runtime.lab.tune.speeds import ComputeSpeeds
from edge_runtime.policy import keeps_base

_UNPREDICTED = {"prefetch", "overlap", "direct_io", "power_mode"}
"""Whether these pay is a matter of time that a replay does not have, of memory that is not ours, or of clocks."""
_COMPUTING = {"threads", "tier", "policy"}


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
    """What a replay, or a rehearsal, says of a token.

    Attributes:
        bytes_per_token: read.
        batches_per_token: waits, batches of reads.
        uses: experts computed, by the tier they are served at.
    """

    bytes_per_token: float
    batches_per_token: float
    uses: Mapping[int, float] = field(default_factory=dict)


@dataclass
class RatePredictor:
    """Predicts rates from what stands.

    A token takes what it would with every expert in memory, and on top of it what reading costs: waiting, and whatever
    slows down computing and the rest meanwhile. The first is timed in the process that was measured, else probed; the
    second is what was measured beyond it, and becomes more or less with the reads. Other threads and tiers take so many
    times as long as probes say.

    Attributes:
        present: options in force where a candidate says nothing: read_chunk, io_threads, direct_io, eviction, policy,
            tier, threads and num_slots.
        slot_bytes: of an expert, by tier.
        working_set: experts a token uses if nothing is left out.
        measured: what stands, with its phases.
        replay: replays the workload; None where nothing is read. What it returns is None where settings say something
            else than what was recorded.
        drive: times of its reads; None where it could not be probed.
        speeds: of computing.
        stands: the candidate that was measured.
        rehearsed: what such settings read, where they were rehearsed.
        hides_as_it_computes: what computing hides of reading goes with computing too, not with the reads alone. Which
            is nearer depends on where reads come in a token: predictions take the second, doubts try the first.
    """

    present: Mapping[str, Any]
    slot_bytes: Mapping[int, int]
    working_set: int
    measured: Measurement
    replay: Callable[[ReplaySetting], Reads | None] | None = None
    drive: ReadTimes | None = None
    speeds: ComputeSpeeds = field(default_factory=lambda: ComputeSpeeds({}))
    stands: Candidate = field(default_factory=Candidate)
    rehearsed: dict[ReplaySetting, Reads] = field(default_factory=dict)
    hides_as_it_computes: bool = False

    def know(self, candidate: Candidate, reads: Reads) -> None:
        """Take what a rehearsal of a candidate read."""
        self.rehearsed[self._replayed(self.settings(candidate))] = reads

    def begin_with(self, stands: Candidate, measured: Measurement) -> None:
        """Predict from another one from now on: what both have in common need not be predicted."""
        self.stands, self.measured = stands, measured

    def settings(self, candidate: Candidate) -> dict[str, Any]:
        """Return every option that matters as a candidate has it."""
        return {**self.present, **candidate.options}

    def rate(self, candidate: Candidate) -> float | None:
        """Return tokens a second; None for what cannot be predicted: reading ahead, other answers nobody rehearsed."""
        before, after = self.stands.options, candidate.options
        changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
        if changed & _UNPREDICTED:
            return None
        now, then = self.settings(self.stands), self.settings(candidate)
        if changed - {"threads"} and (keeps_base(str(now["policy"])) or keeps_base(str(then["policy"]))):
            return None  # it reads behind what is computed
        own = self._computing_ms(now)
        ratio = self._computing_ratio(now, then, own) if changed & _COMPUTING else 1.0
        if ratio is None:
            return None
        token, resident = self.measured.token_ms, self.measured.resident_token_ms or own
        most = token - self.measured.phase_ms.get("read_wait", 0.0)
        computing = most if resident is None else min(resident, most)  # it may have been slower while it was probed
        computed, reading = computing * ratio, token - computing
        if changed - {"threads"}:
            found = self._reading_ms(now, then, reading)
            if found is None:
                return None
            reading = found
        if self.hides_as_it_computes and token > computing:
            reading = max(0.0, reading + self._hidden_ms() * reading / (token - computing) * (1 - ratio))
        total = computed + reading
        return 1000 / total if total > 0 else None

    def _hidden_ms(self) -> float:
        """Milliseconds that the drive was busy and nobody waited."""
        return max(0.0, self.measured.read_busy_ms - self.measured.phase_ms.get("read_wait", 0.0))

    def _computing_ratio(self, now: Mapping[str, Any], then: Mapping[str, Any], own: float | None) -> float | None:
        """How many times as long a token with every expert in memory takes; both as probed."""
        other = self._computing_ms(then)
        return other / own if own and other is not None else None

    def _computing_ms(self, settings: Mapping[str, Any]) -> float | None:
        """Milliseconds of a token with every expert in memory: as many experts of each tier as a replay says."""
        threads = int(settings["threads"])
        own = self.speeds.of(threads, int(settings["tier"]))
        if own is None:
            return None
        other = self.measured.phase_ms.get("other", 0.0) if own.other_ms is None else own.other_ms
        uses: Mapping[int, float] = {}
        if self.replay is not None:
            reads = self._reads(settings)
            if reads is None:
                return None
            uses = reads.uses
        total = own.trunk_ms + other
        for tier, count in (uses or {int(settings["tier"]): self.working_set}).items():
            speed = self.speeds.of(threads, tier)
            if speed is None:
                return None
            total += count / self.working_set * speed.experts_ms
        return total

    def _reading_ms(self, now: Mapping[str, Any], then: Mapping[str, Any], measured: float) -> float | None:
        """Milliseconds that reading costs a token.

        What is read becomes more or less as replays say, and with it the cost. A read takes longer or shorter as the
        probe says; all of that is waited for, as computing hides as much of it as before.
        """
        own, other, wanted = self._read_ms(now, now), self._read_ms(then, now), self._read_ms(then, then)
        if own is None or other is None or wanted is None:
            return None
        if own <= 0 or measured <= 0:
            return wanted
        if other <= 0:
            return 0.0
        slower = wanted / other
        busy = max(self.measured.read_busy_ms, measured)
        return max(0.0, other / own * (measured + busy * (slower - 1)))

    def _read_ms(self, settings: Mapping[str, Any], drive: Mapping[str, Any]) -> float | None:
        """Milliseconds of reading what some settings read, as those of `drive` read; nothing is computed meanwhile."""
        reads = self._reads(settings)
        if reads is None or self.drive is None:
            return None
        return self.drive.read_ms(reads.bytes_per_token, reads.batches_per_token, drive)

    def _reads(self, settings: Mapping[str, Any]) -> Reads | None:
        """What some settings read: as they were rehearsed, else as a replay says."""
        setting = self._replayed(settings)
        found = self.rehearsed.get(setting)
        return self.replay(setting) if found is None and self.replay is not None else found

    def _replayed(self, settings: Mapping[str, Any]) -> ReplaySetting:
        tier = int(settings["tier"])
        slots = int(settings["num_slots"]) * self.slot_bytes[int(self.present["tier"])] // self.slot_bytes[tier]
        if "expert_memory" in settings:
            slots = min(slots, int(settings["expert_memory"]) // self.slot_bytes[tier])
        return ReplaySetting(slots, str(settings["eviction"]), str(settings["policy"]), tier)
