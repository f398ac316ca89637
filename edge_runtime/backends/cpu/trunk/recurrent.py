"""States of fixed size of one sequence: written aside, swapped at commit, kept where a later prompt may go on.

A state cannot be cut after a token. So there are more slots than one, each the states of all layers after some number
of tokens: the present one, the one a pass writes, and snapshots. Moving back to a snapshot copies nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.spec import ModelSpec, StateArray

F32 = NDArray[np.float32]

SNAPSHOTS = 2
"""Lengths besides the present one a sequence can go back to: before its last prompt's end, and where prompts part."""
_SLOTS = SNAPSHOTS + 2


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


class FixedStates:
    """Slots for the fixed arrays of all layers; without such arrays it takes no memory and cuts anywhere.

    Args:
        layers: the arrays of every layer, growing ones included.
    """

    def __init__(self, layers: Sequence[Sequence[StateArray]]) -> None:
        self._shapes = [[array.shape for array in layer if not array.grows] for layer in layers]
        self._names = [[array.name for array in layer if not array.grows] for layer in layers]
        self._numbers = sum(prod(shape) for shapes in self._shapes for shape in shapes)
        self._slots = np.zeros((_SLOTS if self._numbers else 0, self._numbers), np.float32)
        self._views = [self._arrays(slot) for slot in self._slots]
        self._clock = count(1)
        self._wanted: set[int] = set()
        self._stops: list[Stop] = []
        self._is_zero = True
        self.current = 0
        self._kept: dict[int, _Kept] = {}
        self.clear()

    @staticmethod
    def bytes_for(spec: ModelSpec) -> int:
        """Return what the slots of one sequence take."""
        layers = (spec.state_of(i) for i in range(spec.num_layers))
        return 4 * _SLOTS * sum(array.numbers for layer in layers for array in layer if not array.grows)

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        return self._slots.nbytes

    def of(self, layer_idx: int, slot: int) -> list[F32]:
        """Return a layer's arrays in a slot, each [1, ...]."""
        return self._views[slot][layer_idx] if self._numbers else []

    def layout(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Where the states are, for kernels.

        Returns:
            uint64 [slots] addresses, and int64 [L, 2]: the number of a slot at which a layer's ``conv`` and ``state``
            begin, -1 where it has none.
        """
        places, start = np.full((len(self._names), 2), -1, np.int64), 0
        for layer, (names, shapes) in enumerate(zip(self._names, self._shapes, strict=True)):
            for name, shape in zip(names, shapes, strict=True):
                places[layer, ("conv", "state").index(name)] = start
                start += prod(shape)
        return np.array([slot.ctypes.data for slot in self._slots], np.uint64), places

    def clear(self) -> None:
        """Start from zero states, for an empty sequence."""
        self._stops, self._wanted = [], set()
        self._kept = {self.current: _Kept(0, False, 0)}
        if not self._is_zero:
            self._slots[self.current] = 0
            self._is_zero = True

    def nearest(self, length: int) -> int:
        """Return the most tokens, at most `length`, whose states are here; every length is, without fixed states."""
        if not self._numbers:
            return length
        return max([0, *(kept.length for kept in self._kept.values() if kept.length <= length)])

    def want(self, lengths: Iterable[int]) -> None:
        """Ask for snapshots at these lengths, once passes come to them; forgets what was asked before."""
        self._wanted = set(lengths)

    def cut(self, length: int) -> None:
        """Go back to the states after `length` tokens, one that `nearest` returned."""
        if not self._numbers:
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
        if not self._numbers:
            return []
        inner = sorted(w - length for w in self._wanted if snapshots and length < w < length + tokens)[-SNAPSHOTS:]
        slots = self._least_valuable(len(inner) + 1)
        for slot in slots:
            self._kept.pop(slot, None)
        self._stops = [Stop(at, slot) for at, slot in zip([*inner, tokens], slots, strict=True)]
        return self._stops

    def commit(self, length: int, tokens: int) -> None:
        """Make the states of the pass that began at `length` the present ones."""
        if not self._numbers:
            return
        for stop in self._stops:
            reached = length + stop.tokens
            self._kept[stop.slot] = _Kept(reached, reached in self._wanted, next(self._clock))
            self._wanted.discard(reached)
        assert self._stops[-1].tokens == tokens
        self.current, self._stops, self._is_zero = self._stops[-1].slot, [], False

    def copy_from(self, other: FixedStates, length: int) -> None:
        """Take over the states another sequence had after `length` tokens, one that its `nearest` returned."""
        self.clear()
        if not self._numbers or length == 0:
            return
        source = next(slot for slot, kept in other._kept.items() if kept.length == length)
        self._slots[self.current] = other._slots[source]
        self._is_zero = False
        self._kept = {self.current: _Kept(length, True, next(self._clock))}

    def _least_valuable(self, number: int) -> list[int]:
        """Slots to write: unused ones, then what is no snapshot, then the snapshots used longest ago."""
        free = [slot for slot in range(_SLOTS) if slot != self.current]
        unused = _Kept(0, False, -1)
        return sorted(free, key=lambda slot: self._kept.get(slot, unused)[1:])[:number]

    def _touch(self, slot: int) -> None:
        self._kept[slot] = self._kept[slot]._replace(used=next(self._clock))

    def _arrays(self, slot: F32) -> list[list[F32]]:
        """Cut a slot into the arrays of each layer."""
        start, layers = 0, []
        for shapes in self._shapes:
            arrays = []
            for shape in shapes:
                arrays.append(slot[start : start + prod(shape)].reshape(1, *shape))
                start += prod(shape)
            layers.append(arrays)
        return layers
