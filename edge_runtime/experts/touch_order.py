"""In which order memory of two sizes of units is touched, and how far reads have come in it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from edge_runtime.backends.memory import ByteRange
from edge_runtime.base.sizes import MIB

_BLOCK_BYTES = 8 * MIB


def joined(units: Iterable[int], range_of: Callable[[int], ByteRange]) -> list[ByteRange]:
    """Return where units lie, in order; those that lie one behind the other as one range."""
    found: list[ByteRange] = []
    for one in map(range_of, units):
        last = found[-1] if found else None
        if last is not None and last.address + last.nbytes == one.address and last.owner is one.owner:
            found[-1] = ByteRange(last.address, last.nbytes + one.nbytes, one.owner)
        else:
            found.append(one)
    return found


def side_by_side(*lists: Sequence[ByteRange]) -> list[ByteRange]:
    """Return all ranges in blocks, so that of each list about the same share comes in the same time."""
    found = [block for ranges in lists for block in _with_share(ranges)]
    return [block for _, block in sorted(found, key=lambda one: one[0])]


def _with_share(ranges: Sequence[ByteRange]) -> Iterator[tuple[float, ByteRange]]:
    """Give each block with the share of the list that lies before it."""
    total, done = sum(one.nbytes for one in ranges), 0
    for one in ranges:
        for at in range(0, one.nbytes, _BLOCK_BYTES):
            block = ByteRange(one.address + at, min(_BLOCK_BYTES, one.nbytes - at), one.owner)
            yield done / total, block
            done += block.nbytes


class Progress:
    """How far reads have come in the memory of units that are used from number 0 on.

    Args:
        counts: units of each size that are touched beforehand.
    """

    def __init__(self, *counts: int) -> None:
        self._counts, self._ends = counts, [0] * len(counts)

    def use(self, kind: int, unit: int) -> bool:
        """A unit of a size is read into; return whether reads have come further by that."""
        if self._ends[kind] > unit:
            return False
        self._ends[kind] = unit + 1
        return True

    def shares(self) -> tuple[float, float]:
        """Return the shares of the memory in front of which every size was used, and to which any was."""
        found = [min(1.0, end / count) for end, count in zip(self._ends, self._counts, strict=True) if count]
        return (min(found), max(found)) if found else (1.0, 1.0)
