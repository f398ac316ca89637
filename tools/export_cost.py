"""Write the hours of docs/exporting-at-scale.md from its sizes and rates: `python tools/export_cost.py [--check]`.

Sizes are the format's. Rates are the page's own measurements, read from its table. Storage and processors, and how busy
they are, are assumed and named in the rows.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import marked_page

from edge_runtime.bundle.record import RecordLayout

PAGE = Path(__file__).parents[1] / "docs/exporting-at-scale.md"
LAYERS, EXPERTS, HIDDEN, INTERMEDIATE, TRUNK = 58, 256, 7168, 2048, 17e9
TRUNK_BYTES = 12e9
READ = {"FP8": 671e9, "bfloat16": 1342e9}
REFERENCE_READ = {"FP8": 82e9, "bfloat16": 163e9}
TRUNK_RATE, HASH_RATE = 50e6, 1.8e9
"""Measured: parameters and bytes a processor-second."""
REFERENCE_S, REFERENCE_THREADS = 1000, 2
BUSY = 0.85
CASES = (("FP8", 8), ("FP8", 4), ("bfloat16", 8))
CLUSTERS = ((1, 2, 2, 1), (1, 16, 8, 2), (4, 16, 8, 2), (4, 16, 8, 10))
"""Nodes, processors of each, --jobs, GB/s of the storage."""


@dataclass(frozen=True)
class Layer:
    """What the experts of a layer take.

    Attributes:
        bytes: of its file.
        encoding_s: processor-seconds that several threads share.
        hashing_s: seconds of the one thread that hashes the file and its cuts afterwards.
    """

    bytes: float
    encoding_s: float
    hashing_s: float

    def task_s(self, jobs: int) -> float:
        """Seconds of the task with so many processors."""
        return self.encoding_s / (jobs * BUSY) + self.hashing_s


def rates(page: str) -> dict[str, dict[int, float]]:
    """Return the measured million parameters a processor-second, by source and bits."""
    rows = re.findall(r"^\| from (FP8|bfloat16)[^|]* \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    if len(rows) != 2:
        raise SystemExit(f"{PAGE.name}: expected two rows '| from SOURCE | 8 bits | 4 bits |', found {len(rows)}.")
    return {source: {8: float(eight), 4: float(four)} for source, eight, four in rows}


def layer(bits: int, rate: float) -> Layer:
    """Return the cost of a layer at so many bits and so many million parameters a processor-second."""
    segments = RecordLayout(HIDDEN, INTERMEDIATE, bits // 2).segment_bytes
    prefixes = [EXPERTS * sum(segments[: count + 1]) for count in range(len(segments))]
    hashing = sum(prefixes) / HASH_RATE  # each shallower tier has a digest of its own
    total = EXPERTS * 3 * HIDDEN * INTERMEDIATE / (rate * 1e6)
    return Layer(prefixes[-1], total - hashing, hashing)


def bounds(cost: Layer, source: str, cluster: tuple[int, int, int, int]) -> dict[str, float]:
    """Return the hours each thing needs that may be the slowest."""
    nodes, processors, jobs, rate = cluster
    rounds = ceil(LAYERS / (nodes * (processors // jobs)))
    busy, trunk = nodes * processors * BUSY, TRUNK / TRUNK_RATE
    work = LAYERS * (cost.encoding_s + cost.hashing_s) + trunk + REFERENCE_S
    moved = READ[source] + REFERENCE_READ[source] + LAYERS * cost.bytes + TRUNK_BYTES
    seconds = {
        "rounds of tasks": rounds * cost.task_s(jobs) + trunk / busy,
        "processors": work / busy,
        "storage": moved / (rate * 1e9),
        "reference logits": REFERENCE_S / (REFERENCE_THREADS * BUSY),
    }
    return {name: value / 3600 for name, value in seconds.items()}


def table(page: str) -> list[str]:
    """Return the hours of every cluster."""
    found = rates(page)
    heads = [f"{source}, {bits} bits" for source, bits in CASES]
    lines = [f"| nodes x processors | `--jobs` | storage | {' | '.join(heads)} |", "|---" * (3 + len(heads)) + "|"]
    for cluster in CLUSTERS:
        cells = []
        for source, bits in CASES:
            limits = bounds(layer(bits, found[source][bits]), source, cluster)
            slowest = max(limits, key=limits.__getitem__)
            cells.append(f"{limits[slowest]:.2f} ({slowest})")
        nodes, processors, jobs, rate = cluster
        lines.append(f"| {nodes} x {processors} | {jobs} | {rate} GB/s | {' | '.join(cells)} |")
    return lines


def explained(page: str) -> list[str]:
    """Return the sentences about rounds, from the same figures."""
    cost = layer(8, rates(page)["FP8"][8])
    encoding, hashing = (f"{value:.0f} s" for value in (cost.encoding_s / (8 * BUSY), cost.hashing_s))
    rounds = {nodes: ceil(LAYERS / (2 * nodes)) for nodes in (1, 4)}
    return [
        f"A layer is one task: from FP8 at 8 bits with `--jobs 8` {encoding} of encoding and, after it,",
        f"{hashing} of hashing in one thread. Sixteen processors do two at a time, which makes {rounds[1]} rounds of",
        f"the {LAYERS} layers on one node and {rounds[4]} on four.",
    ]


def main() -> int:
    """Write the page, or say whether it is up to date."""
    page = PAGE.read_text(encoding="utf-8")
    fresh = marked_page.put_all(PAGE, "export_cost", {"hours": table(page), "rounds": explained(page)})
    return marked_page.write({PAGE: fresh}, check="--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
