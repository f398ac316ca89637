"""Probe: what the drive gives by block size, reads under way, page cache or not, and order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edge_runtime.base.errors import DeviceError
from edge_runtime.base.sizes import KIB, MIB, format_size
from edge_runtime.lab.probes.base import Subject
from edge_runtime.telemetry.drive_probe import DriveCeiling, Extent, Order, probe_drive

SUMMARY = "drive: block x depth, direct and buffered, random and in sequence"
BLOCKS = (64 * KIB, 256 * KIB, MIB, 4 * MIB)
DEPTHS = (1, 4, 8, 16, 32)
_ORDERS: tuple[Order, ...] = ("random", "sequential")
_MOST_BYTES = 1 << 40


@dataclass(frozen=True)
class DriveGrid:
    """Every point that was measured, each with its proof.

    Attributes:
        points: in the order they were measured.
        left_out: what was not measured, and why.
    """

    points: tuple[DriveCeiling, ...]
    left_out: tuple[str, ...] = ()

    @property
    def best(self) -> DriveCeiling:
        """The point of the highest rate of direct reads in random order, which is what misses are."""
        direct = [point for point in self.points if (point.mode, point.order) == ("direct", "random")]
        return max(direct or self.points, key=lambda point: point.gbps)

    def rate(self, block_bytes: int, depth: int, mode: str = "direct") -> float:
        """Return GB/s of random reads at the measured point nearest to a block size and depth."""
        alike = [point for point in self.points if (point.mode, point.order) == (mode, "random")]
        return min(alike or self.points, key=lambda p: _distance(p, block_bytes, depth)).gbps

    def latency_us(self) -> float:
        """Return the median time of the smallest direct read by itself, in microseconds."""
        alone = [point for point in self.points if point.mode == "direct" and point.depth == 1]
        smallest = min(alone or self.points, key=lambda point: point.block_bytes)
        return 1000 * (smallest.block_ms_p50 or 0.0)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        best = self.best
        return {
            "best": {"gbps": best.gbps, "block_bytes": best.block_bytes, "depth": best.depth},
            "points": [point.to_json() for point in self.points],
            "left_out": list(self.left_out),
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        rows = [
            f"{p.mode:<9}{p.order:<11}{format_size(p.block_bytes):>8} x{p.depth:<3}{p.gbps:>8.2f} GB/s"
            for p in self.points
        ]
        return [*rows, *(f"left out: {why}" for why in self.left_out)]


def run(subject: Subject) -> DriveGrid:
    """Measure every point.

    Raises:
        DeviceError: no point could be measured.
    """
    return measure(subject.extents, subject.seconds)


def measure(
    extents: Sequence[Extent],
    seconds: float,
    blocks: Sequence[int] = BLOCKS,
    depths: Sequence[int] = DEPTHS,
) -> DriveGrid:
    """Measure direct reads at every block size and depth, buffered ones at every block size and one depth.

    Raises:
        DeviceError: no point could be measured.
    """
    points: list[DriveCeiling] = []
    left_out: list[str] = []
    longest = max((extent.length for extent in extents), default=0)
    fitting = [block for block in blocks if block <= longest] or [longest]
    for direct, order, block, depth in _points_of(fitting, depths):
        try:
            points.append(
                probe_drive(
                    extents,
                    block_bytes=block,
                    depth=depth,
                    seconds=seconds,
                    max_bytes=_MOST_BYTES,
                    direct=direct,
                    order=order,
                    seed=len(points),
                )
            )
        except DeviceError as err:
            if not points and direct:
                raise
            left_out.append(f"{'direct' if direct else 'buffered'} {order} {format_size(block)} x{depth}: {err}")
    if len(fitting) < len(blocks):
        left_out.append(f"blocks above {format_size(longest)}, the largest record")
    return DriveGrid(tuple(points), tuple(left_out))


def _points_of(blocks: Sequence[int], depths: Sequence[int]) -> Iterator[tuple[bool, Order, int, int]]:
    for order in _ORDERS:
        yield from ((True, order, block, depth) for block in blocks for depth in depths)
    middle = depths[len(depths) // 2]
    for order in _ORDERS:
        yield from ((False, order, block, middle) for block in blocks)


def _distance(point: DriveCeiling, block_bytes: int, depth: int) -> float:
    """How far off a point is: the ratio by which its block and its depth differ."""
    block, own_depth = point.block_bytes / block_bytes, point.depth / depth
    return max(block, 1 / block) + max(own_depth, 1 / own_depth)
