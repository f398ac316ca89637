"""How long batches of experts take through the runtime's own reader, by the size of a part and parts under way."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from statistics import median, quantiles
from time import perf_counter_ns
from typing import Any

from edge_runtime.backends import host_space
from edge_runtime.backends.memory import ByteRange
from edge_runtime.base.errors import DeviceError
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.experts.store.base import ExpertKey
from edge_runtime.experts.store.file_store import FileExpertStore

_RECORDS = (1, 2, 4)
"""Together in a batch: one that is missed alone, and as many as a cold layer misses."""
_ROUNDS = 15
_WAIT_S = 60.0
Point = tuple[int, int]


@dataclass(frozen=True)
class Line:
    """Milliseconds of a batch of reads: those of any, and those of each byte. Both from medians of batches.

    Attributes:
        batch_ms, byte_ms: of any batch, and of each byte.
        doubt: by what share it may be off: half of what the middle half of like batches spreads over.
    """

    batch_ms: float
    byte_ms: float
    doubt: float = 0.0

    @staticmethod
    def through(points: Sequence[tuple[int, float]]) -> Line:
        """Return a line through (bytes, milliseconds), outliers ignored, neither part of it below 0.

        The slope is the median over points of the median of slopes to the others (repeated medians, Siegel 1982).
        """
        slope = median(median(_slopes(point, points)) for point in points)
        start = median(ms - slope * size for size, ms in points)
        if slope > 0 and start >= 0:
            return Line(start, slope)
        return Line(0.0, median(ms / size for size, ms in points))


def _spread(times: Sequence[float]) -> float:
    """Half of what the middle half spreads over, by the median."""
    if len(times) < 4:
        return 0.0
    low, middle, high = quantiles(times, n=4, method="inclusive")
    return (high - low) / 2 / middle


def _slopes(point: tuple[int, float], points: Sequence[tuple[int, float]]) -> list[float]:
    return [(ms - point[1]) / (size - point[0]) for size, ms in points if size != point[0]]


class ReadTimes:
    """Times by (read_chunk, io_threads).

    Args:
        lines: one a point.
    """

    def __init__(self, lines: Mapping[Point, Line]) -> None:
        self._lines = dict(lines)

    def read_ms(self, nbytes: float, batches: float, settings: Mapping[str, Any]) -> float | None:
        """Return milliseconds of reading so much in so many batches one after another; None where it was not probed."""
        line = self.line(settings)
        return None if line is None else batches * line.batch_ms + nbytes * line.byte_ms

    def line(self, settings: Mapping[str, Any]) -> Line | None:
        """Return the line of some settings; None where they were not probed."""
        return self._lines.get((int(settings["read_chunk"]), int(settings["io_threads"])))

    def having(self, settings: Mapping[str, Any], line: Line) -> ReadTimes:
        """Return these with another line for some settings."""
        point = (int(settings["read_chunk"]), int(settings["io_threads"]))
        return ReadTimes({**self._lines, point: line})

    def to_json(self) -> list[dict[str, Any]]:
        """Return plain data."""
        return [
            {
                "read_chunk": part_bytes,
                "io_threads": depth,
                "batch_ms": line.batch_ms,
                "gb_s": round(1e-6 / line.byte_ms, 4),
                "doubt": round(line.doubt, 4),
            }
            for (part_bytes, depth), line in self._lines.items()
            if line.byte_ms
        ]

    @staticmethod
    def of_samples(samples: Iterable[Sequence[Any]]) -> ReadTimes:
        """Return what follows from samples of `measure`."""
        return ReadTimes({
            (part_bytes, depth): replace(
                Line.through([(size, median(times)) for size, times in batches]),
                doubt=median(_spread(times) for _, times in batches),
            )
            for part_bytes, depth, batches in samples
        })  # fmt: skip


def measure(bundle: Bundle, tier: int, points: Sequence[Point]) -> list[list[Any]]:
    """Read random experts at every point in turn, again and again, so that load meets all of them alike.

    Batches are of one to four records at the tier, and of one at the lowest tier.

    Returns:
        [part_bytes, depth, [[bytes of a batch, milliseconds of each], ...]] of each point.

    Raises:
        DeviceError: the drive is not read directly, so it cannot be told from memory.
        ExpertReadError: a read failed.
    """
    spec, layout = bundle.manifest.model, bundle.manifest.layout
    record_bytes, most, lowest = layout.tier_bytes(tier), max(_RECORDS), min(bundle.manifest.experts.tiers)
    kinds = [*((tier, count) for count in _RECORDS), *([(lowest, 1)] if lowest < tier else [])]
    keys = [ExpertKey(layer, expert) for layer in spec.sparse_layers for expert in range(spec.num_experts)]
    slots = host_space().make_slots(
        slot_bytes=record_bytes, num_slots=most, segment_offsets=(0,), block_bytes=most * record_bytes
    )
    draw = random.Random(0)  # noqa: S311 - an order, not a secret
    found: list[list[list[float]]] = [[[] for _ in kinds] for _ in points]
    with ExitStack() as stack:
        stack.callback(slots.close)
        stores = [stack.enter_context(closing(_store(bundle, tier, point))) for point in points]
        for number in range(1 + _ROUNDS):
            for store, samples in zip(stores, found, strict=True):
                for (each, count), times in zip(kinds, samples, strict=True):
                    places = [slots.range_of(slot)._replace(nbytes=layout.tier_bytes(each)) for slot in range(count)]
                    segments = len(layout.segment_offsets(each))
                    spent = _batch_ms(store, dict(zip(draw.sample(keys, count), places, strict=True)), segments)
                    if number:  # the first round opens files and touches memory
                        times.append(round(spent, 4))
    sizes = [count * layout.tier_bytes(each) for each, count in kinds]
    return [
        [*point, [[size, times] for size, times in zip(sizes, samples, strict=True)]]
        for point, samples in zip(points, found, strict=True)
    ]


def _store(bundle: Bundle, tier: int, point: Point) -> FileExpertStore:
    store = FileExpertStore(bundle, tier, io_threads=point[1], part_bytes=point[0])
    if store.mode != "direct":
        store.close()
        raise DeviceError(f"reads: the drive is not read directly ({store.mode}), so it cannot be told from memory.")
    return store


def _batch_ms(store: FileExpertStore, wanted: Mapping[ExpertKey, ByteRange], segments: int) -> float:
    started = perf_counter_ns()
    for key, place in wanted.items():
        store.submit(key, [place], segments=(0, segments))
    left = len(wanted)
    while left:
        done = store.completed(_WAIT_S)
        if not done:
            raise DeviceError(f"reads: none came back within {_WAIT_S:g} s.")
        for ticket in done:
            if ticket.error is not None:
                raise ticket.error
            left -= 1
    return (perf_counter_ns() - started) / 1e6
