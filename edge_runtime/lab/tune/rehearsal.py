"""Rehearsal: what a short run told of a candidate that changes what is said. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_runtime.lab.tune.predict import Reads


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal told.

    Attributes:
        reads: of a decoded token, nothing read ahead.
        kld: nats a token against the reference; None without one.
    """

    reads: Reads
    kld: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` takes back."""
        uses = {str(tier): count for tier, count in self.reads.uses.items()}
        return {**vars(self.reads), "uses": uses, "kld": self.kld}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Rehearsal:
        """Return what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: it did not write this.
        """
        uses = {int(tier): float(count) for tier, count in dict(data["uses"]).items()}
        reads = Reads(float(data["bytes_per_token"]), float(data["batches_per_token"]), uses)
        return Rehearsal(reads, None if data["kld"] is None else float(data["kld"]))
