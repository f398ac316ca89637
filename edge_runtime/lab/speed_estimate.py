"""How fast a plan would decode at most: arithmetic from sizes and stated rates, no run. docs/boards.md explains it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LOCALITY = 1.6
"""Exponent of the assumed hit rate; see `hit_rate`."""
INSTRUCTIONS = {2: 0.439, 4: 0.419, 6: 0.779, 8: 0.779, 16: 0.779}
"""NEON instructions a weight and token, by tier: counted under emulation (docs/kernels.md); 6, 16 as 8 (assumed)."""
TRUNK_INSTRUCTIONS = 0.779
"""The same for the trunk: as 8-bit experts (assumed)."""
CORE_RATE = 3 * 2e9
"""Such instructions a core retires in a second: three a cycle at 2 GHz (assumed)."""
ASSUMED_DRIVE_GB_S, ASSUMED_MEMORY_GB_S = 2.0, 20.0
"""GB/s (10^9 bytes) where neither flag nor profile says them: a modest NVMe drive, one channel of DDR4."""
LAYER_S = 0.03e-3
"""Seconds of a layer for everything else: routing, the cache, Python. What bounds a model that is tiny: the bundled one
takes 0.04 ms a layer in all with its experts in memory (measured, one Zen 4 core)."""


def hit_rate(share: float) -> float:
    """Return the assumed share of lookups that hit, from the share of experts cached.

    0 at none, 1 at all. At 25, 50 and 75 % it gives 37, 67 and 89 %: at or below what runs on synthetic checkpoints
    and replays of recorded routing gave (docs/boards.md).
    """
    return float(1 - (1 - share) ** LOCALITY)


@dataclass(frozen=True)
class Work:
    """What a token takes, whatever computes it.

    Attributes:
        expert_bytes: of the experts it uses, at the tier in use.
        trunk_bytes: of the trunk's weights that every token reads.
        instructions: of all of it.
        cached: share of all experts that stays in memory.
        other_s: seconds for everything but bytes and instructions.
        deep_share: where every expert is in memory at a lower tier, the share of uses assumed at the full one; None: no
            expert is kept so.
    """

    expert_bytes: int
    trunk_bytes: int
    instructions: float
    cached: float
    other_s: float = 0.0
    deep_share: float | None = None


@dataclass(frozen=True)
class Rates:
    """What a machine gives: GB/s (10^9 bytes) of drive and memory, and threads of `CORE_RATE`."""

    drive_gb_s: float
    memory_gb_s: float
    threads: int


@dataclass(frozen=True)
class SpeedEstimate:
    """The time of a token while decoding, reads and computing one after the other.

    Attributes:
        work, rates: what it follows from.
    """

    work: Work
    rates: Rates

    @property
    def missed_bytes(self) -> float:
        """Read from the drive for a token."""
        return self.work.expert_bytes * (1 - hit_rate(self.work.cached))

    @property
    def touched_bytes(self) -> int:
        """Read from memory for a token."""
        return self.work.expert_bytes + self.work.trunk_bytes

    @property
    def drive_s(self) -> float:
        """Seconds of a token for reads."""
        return self.missed_bytes / self.rates.drive_gb_s / 1e9

    @property
    def memory_s(self) -> float:
        """Seconds of a token to bring weights from memory."""
        return self.touched_bytes / self.rates.memory_gb_s / 1e9

    @property
    def cpu_s(self) -> float:
        """Seconds of a token for instructions."""
        return self.work.instructions / (self.rates.threads * CORE_RATE)

    @property
    def tok_s(self) -> float:
        """Tokens a second, at most."""
        return 1 / (self.drive_s + max(self.memory_s, self.cpu_s) + self.work.other_s)

    def lines(self, sources: str) -> list[str]:
        """Return it for people, with everything it assumes.

        Args:
            sources: where the rates come from.
        """
        work, rates = self.work, self.rates
        limit = "memory" if self.memory_s > self.cpu_s else "the CPU"
        return [
            f"speed: at most {self.tok_s:.{0 if self.tok_s >= 10 else 1}f} tok/s while decoding, estimated from sizes "
            "(docs/boards.md). It assumes",
            self._drive_line(),
            f"  then {self.touched_bytes / 1e6:.1f} MB from memory at {rates.memory_gb_s:g} GB/s, computed by "
            f"{rates.threads} threads, {1e3 * max(self.memory_s, self.cpu_s):.1f} ms, limited by {limit}",
            f"  and {1e3 * work.other_s:.1f} ms for everything else",
            f"  ({sources})",
        ]

    def _drive_line(self) -> str:
        work, rates = self.work, self.rates
        if work.deep_share is not None:
            return (
                f"  {100 * work.deep_share:.0f} % of the uses at the full tier, the others at the base, and none that "
                "--max-kld makes wait for the drive"
            )
        return (
            f"  {100 * hit_rate(work.cached):.0f} % hits: {self.missed_bytes / 1e6:.1f} MB a token from the drive at "
            f"{rates.drive_gb_s:g} GB/s, {1e3 * self.drive_s:.1f} ms"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "tok_s_at_most": round(self.tok_s, 3),
            "assumed_hit_rate": round(hit_rate(self.work.cached), 4),
            "assumed_full_tier_share": None if self.work.deep_share is None else round(self.work.deep_share, 4),
            "missed_bytes_per_token": round(self.missed_bytes),
            "touched_bytes_per_token": self.touched_bytes,
            "drive_gb_s": self.rates.drive_gb_s,
            "memory_gb_s": self.rates.memory_gb_s,
            "threads": self.rates.threads,
            "drive_ms_per_token": round(1e3 * self.drive_s, 4),
            "other_ms_per_token": round(1e3 * self.work.other_s, 4),
            "compute_ms_per_token": round(1e3 * max(self.memory_s, self.cpu_s), 4),
        }
