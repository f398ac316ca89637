"""How long batches of experts take through the runtime's own reader, by the size of a part and parts under way."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from statistics import median
from time import perf_counter_ns
from typing import Any

from edge_runtime.backends.cpu.space import HostSpace
from edge_runtime.base.errors import DeviceError
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.experts.store.base import ExpertKey
from edge_runtime.experts.store.file_store import FileExpertStore

_RECORDS = (1, 4)
"""Together in a batch: one that is missed alone, and as many as a cold layer misses."""
_ROUNDS = 15
_WAIT_S = 60.0
Point = tuple[int, int]


@dataclass(frozen=True)
class Line:
    """Milliseconds of a batch of reads: those of any, and those of each byte. Both from medians of batches."""

    batch_ms: float
    byte_ms: float

    @staticmethod
    def through(small: tuple[int, float], large: tuple[int, float]) -> Line:
        """Return the line through two (bytes, milliseconds), neither part of it below 0."""
        slope = max(0.0, (large[1] - small[1]) / (large[0] - small[0]))
        if slope == 0.0:
            return Line(0.0, large[1] / large[0])
        start = small[1] - slope * small[0]
        return Line(start, slope) if start >= 0 else Line(0.0, large[1] / large[0])


class ReadTimes:
    """Times by (read_chunk, io_threads).

    Args:
        lines: one a point.
    """

    def __init__(self, lines: Mapping[Point, Line]) -> None:
        self._lines = dict(lines)

    def read_ms(self, nbytes: float, batches: float, settings: Mapping[str, Any]) -> float | None:
        """Return milliseconds of reading so much in so many batches one after another; None where it was not probed."""
        line = self._lines.get((int(settings["read_chunk"]), int(settings["io_threads"])))
        return None if line is None else batches * line.batch_ms + nbytes * line.byte_ms

    def to_json(self) -> list[dict[str, Any]]:
        """Return plain data."""
        return [
            {"read_chunk": chunk, "io_threads": depth, "batch_ms": line.batch_ms, "gb_s": round(1e-6 / line.byte_ms, 4)}
            for (chunk, depth), line in self._lines.items()
            if line.byte_ms
        ]

    @staticmethod
    def of_samples(samples: Iterable[Sequence[Any]]) -> ReadTimes:
        """Return what follows from `measure`'s samples."""
        lines = {}
        for chunk, depth, record_bytes, *times in samples:
            points = [(n * record_bytes, median(each)) for n, each in zip(_RECORDS, times, strict=True)]
            lines[chunk, depth] = Line.through(*points)
        return ReadTimes(lines)


def measure(bundle: Bundle, tier: int, points: Sequence[Point]) -> list[list[Any]]:
    """Read random experts at every point in turn, again and again, so that load meets all of them alike.

    Returns:
        [chunk, depth, bytes of a record, milliseconds of batches of one record, ... of four] of each point.

    Raises:
        DeviceError: the drive is not read directly, so it cannot be told from memory.
        ExpertReadError: a read failed.
    """
    spec, layout = bundle.manifest.model, bundle.manifest.layout
    record_bytes, most = layout.tier_bytes(tier), max(_RECORDS)
    keys = [ExpertKey(layer, expert) for layer in spec.sparse_layers for expert in range(spec.num_experts)]
    slots = HostSpace().make_slots(
        slot_bytes=record_bytes, num_slots=most, segment_offsets=(0,), block_bytes=most * record_bytes
    )
    draw = random.Random(0)  # noqa: S311 - an order, not a secret
    found: dict[Point, tuple[list[float], ...]] = {point: tuple([] for _ in _RECORDS) for point in points}
    with ExitStack() as stack:
        stack.callback(slots.close)
        stores = [stack.enter_context(closing(_store(bundle, tier, point))) for point in points]
        for number in range(1 + _ROUNDS):
            for store, samples in zip(stores, found.values(), strict=True):
                for size, times in zip(_RECORDS, samples, strict=True):
                    spent = _batch_ms(store, draw.sample(keys, size), slots)
                    if number:  # the first round opens files and touches memory
                        times.append(round(spent, 4))
    return [[*point, record_bytes, *samples] for point, samples in found.items()]


def _store(bundle: Bundle, tier: int, point: Point) -> FileExpertStore:
    store = FileExpertStore(bundle, tier, io_threads=point[1], part_bytes=point[0])
    if store.mode != "direct":
        store.close()
        raise DeviceError(f"reads: the drive is not read directly ({store.mode}), so it cannot be told from memory.")
    return store


def _batch_ms(store: FileExpertStore, keys: Sequence[ExpertKey], slots: Any) -> float:
    started = perf_counter_ns()
    for slot, key in enumerate(keys):
        store.submit(key, [slots.range_of(slot)])
    left = len(keys)
    while left:
        done = store.completed(_WAIT_S)
        if not done:
            raise DeviceError(f"reads: none came back within {_WAIT_S:g} s.")
        for ticket in done:
            if ticket.error is not None:
                raise ticket.error
            left -= 1
    return (perf_counter_ns() - started) / 1e6
