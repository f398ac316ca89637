"""States of fixed size of one sequence: written aside, swapped at commit, kept where a later prompt may go on.

A state cannot be cut after a token. So there are more slots than one, each the states of all layers after some number
of tokens: the present one, the one a pass writes, and snapshots. Moving back to a snapshot copies nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from math import prod
from typing import NamedTuple, Protocol

import numpy as np

from edge_runtime.base.arrays import F32, I64, U64
from edge_runtime.base.spec import ModelSpec, StateArray

SNAPSHOTS = 2
"""Lengths besides the present one a sequence can go back to: before its last prompt's end, and where prompts part."""
SLOTS = SNAPSHOTS + 2
"""The present states, those a pass writes, and snapshots."""


class StateMemory(Protocol):
    """Where the numbers of the slots are."""

    def zero(self, slot: int) -> None:
        """Set a slot to zero."""
        ...

    def copy(self, slot: int, other: StateMemory, source: int) -> None:
        """Copy a slot of another memory of the same kind and size into one of this."""
        ...


class Stop(NamedTuple):
    """Where a pass must hand over its states.

    Attributes:
        tokens: of the pass, up to here.
        slot: that takes the states.
    """

    tokens: int
    slot: int


class _Kept(NamedTuple):
    length: int
    is_snapshot: bool
    used: int


class StateSlots:
    """Which slot of a sequence holds the states after how many tokens. Where the numbers are is another's business.

    Args:
        has_any: there are states; without them no slot is used, and the sequence can be cut anywhere.
        memory: of the slots.
    """

    def __init__(self, has_any: bool, memory: StateMemory) -> None:
        self._has_any, self._memory = has_any, memory
        self._clock = count(1)
        self._wanted: set[int] = set()
        self._stops: list[Stop] = []
        self._is_zero = True
        self.current = 0
        self._kept: dict[int, _Kept] = {}
        self.clear()

    def clear(self) -> None:
        """Start from zero states, for an empty sequence."""
        self._stops, self._wanted = [], set()
        self._kept = {self.current: _Kept(0, False, 0)}
        if not self._is_zero:
            self._memory.zero(self.current)
            self._is_zero = True

    def nearest(self, length: int) -> int:
        """Return the most tokens, at most `length`, whose states are here; every length is, without fixed states."""
        if not self._has_any:
            return length
        return max([0, *(kept.length for kept in self._kept.values() if kept.length <= length)])

    def want(self, lengths: Iterable[int]) -> None:
        """Ask for snapshots at these lengths, once passes come to them; forgets what was asked before."""
        self._wanted = set(lengths)

    def cut(self, length: int) -> None:
        """Go back to the states after `length` tokens, one that `nearest` returned."""
        if not self._has_any:
            return
        self._stops = []
        self._wanted = {each for each in self._wanted if each > length}
        found = [slot for slot, kept in self._kept.items() if kept.length == length]
        if not found:
            assert length == 0, f"no states after {length} tokens"
            self.clear()
            return
        self.current = found[0]
        self._kept = {slot: kept for slot, kept in self._kept.items() if kept.length <= length}
        self._touch(self.current)

    def begin(self, length: int, tokens: int, *, snapshots: bool = True) -> list[Stop]:
        """Choose slots for a pass of `tokens` behind `length` others; it ends at the last stop.

        What the chosen slots held is given up; the states after `length` tokens stay until `commit`, whatever happens.
        """
        if not self._has_any:
            return []
        inner = sorted(w - length for w in self._wanted if snapshots and length < w < length + tokens)[-SNAPSHOTS:]
        slots = self._least_valuable(len(inner) + 1)
        for slot in slots:
            self._kept.pop(slot, None)
        self._stops = [Stop(at, slot) for at, slot in zip([*inner, tokens], slots, strict=True)]
        return self._stops

    def commit(self, length: int, tokens: int) -> None:
        """Make the states of the pass that began at `length` the present ones."""
        if not self._has_any:
            return
        for stop in self._stops:
            reached = length + stop.tokens
            self._kept[stop.slot] = _Kept(reached, reached in self._wanted, next(self._clock))
            self._wanted.discard(reached)
        assert self._stops[-1].tokens == tokens
        self.current, self._stops, self._is_zero = self._stops[-1].slot, [], False

    def copy_from(self, other: StateSlots, length: int) -> None:
        """Take over the states another sequence had after `length` tokens, one that its `nearest` returned."""
        self.clear()
        if not self._has_any or length == 0:
            return
        source = next(slot for slot, kept in other._kept.items() if kept.length == length)
        self._memory.copy(self.current, other._memory, source)
        self._is_zero = False
        self._kept = {self.current: _Kept(length, True, next(self._clock))}

    def _least_valuable(self, number: int) -> list[int]:
        """Slots to write: unused ones, then what is no snapshot, then the snapshots used longest ago."""
        free = [slot for slot in range(SLOTS) if slot != self.current]
        unused = _Kept(0, False, -1)
        return sorted(free, key=lambda slot: self._kept.get(slot, unused)[1:])[:number]

    def _touch(self, slot: int) -> None:
        self._kept[slot] = self._kept[slot]._replace(used=next(self._clock))


class FixedStates(StateSlots):
    """Slots for the fixed arrays of all layers, in memory of the host; without such arrays they take none.

    Args:
        layers: the arrays of every layer, growing ones included.
    """

    def __init__(self, layers: Sequence[Sequence[StateArray]]) -> None:
        self._fixed = [[array for array in layer if not array.grows] for layer in layers]
        numbers = sum(array.numbers for arrays in self._fixed for array in arrays)
        self._host = _HostSlots(np.zeros((SLOTS if numbers else 0, numbers), np.float32))
        shapes = [[array.shape for array in arrays] for arrays in self._fixed]
        self._views = [_arrays(shapes, slot) for slot in self._host.slots]
        super().__init__(numbers > 0, self._host)

    @staticmethod
    def bytes_for(spec: ModelSpec) -> int:
        """Return what the slots of one sequence take."""
        layers = (spec.state_of(i) for i in range(spec.num_layers))
        return 4 * SLOTS * sum(array.numbers for layer in layers for array in layer if not array.grows)

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        return self._host.slots.nbytes

    def of(self, layer_idx: int, slot: int) -> list[F32]:
        """Return a layer's arrays in a slot, each [1, ...]."""
        return self._views[slot][layer_idx] if self._views else []

    def layout(self) -> tuple[U64, I64]:
        """Where the states are, for kernels.

        Returns:
            uint64 [slots] addresses, and int64 [L, 2]: the number of a slot at which a layer's ``conv`` and ``state``
            begin, -1 where it has none.
        """
        places, start = np.full((len(self._fixed), 2), -1, np.int64), 0
        for layer, arrays in enumerate(self._fixed):
            for array in arrays:
                places[layer, ("conv", "state").index(array.name)] = start
                start += array.numbers
        return np.array([slot.ctypes.data for slot in self._host.slots], np.uint64), places


class _HostSlots:
    """Implements `StateMemory` over an array [slots, numbers]."""

    def __init__(self, slots: F32) -> None:
        self.slots = slots

    def zero(self, slot: int) -> None:
        """See `StateMemory.zero`."""
        self.slots[slot] = 0

    def copy(self, slot: int, other: StateMemory, source: int) -> None:
        """See `StateMemory.copy`."""
        assert isinstance(other, _HostSlots)
        self.slots[slot] = other.slots[source]


def _arrays(layers: Sequence[Sequence[tuple[int, ...]]], slot: F32) -> list[list[F32]]:
    """Cut a slot into the arrays of each layer."""
    start, found = 0, []
    for shapes in layers:
        arrays = []
        for shape in shapes:
            arrays.append(slot[start : start + prod(shape)].reshape(1, *shape))
            start += prod(shape)
        found.append(arrays)
    return found
