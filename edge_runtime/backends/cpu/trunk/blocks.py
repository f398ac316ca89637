"""Parts of a chunk that a layer with a fixed state runs one after the other, each from the state of the one before."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_runtime.backends.cpu.trunk.oracles import mixer_of
from edge_runtime.backends.cpu.trunk.recurrent import FixedStates, Stop
from edge_runtime.backends.cpu.trunk.tables import table
from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import ModelSpec

_STREAMS = ("resid", "moe", "parallel", "resid_out", "x", "router_x", "router_logits")
"""Arrays [1, T, ...], of which a part is contiguous."""


class Part(NamedTuple):
    """Tokens `start` to `stop` of a chunk.

    Attributes:
        states_in: fixed states and tables by input.
        states_out: fixed states by output.
    """

    start: int
    stop: int
    states_in: dict[str, F32]
    states_out: dict[str, F32]

    def inputs(self, chunk: dict[str, F32]) -> dict[str, F32]:
        """Return the graph's inputs for this part, from those of the whole chunk."""
        return self._of(chunk) | self.states_in

    def outputs(self, chunk: dict[str, F32]) -> dict[str, F32]:
        """Return the graph's outputs for this part, from those of the whole chunk."""
        return self._of(chunk) | self.states_out

    def _of(self, chunk: dict[str, F32]) -> dict[str, F32]:
        return {name: each[:, self.start : self.stop] if name in _STREAMS else each for name, each in chunk.items()}


class Blocks:
    """Cuts chunks for the layers of a model.

    Args:
        spec: the model.
    """

    def __init__(self, spec: ModelSpec) -> None:
        mixers = [None if layer.attention is None else mixer_of(layer.attention) for layer in spec.layers]
        self._most = [None if mixer is None else mixer.MAX_TOKENS for mixer in mixers]
        self._tables = [() if mixer is None else mixer.TABLES for mixer in mixers]
        self._fixed = [[array for array in spec.state_of(i) if not array.grows] for i in range(spec.num_layers)]
        largest = max(sum(array.numbers for array in arrays) for arrays in self._fixed)
        self._between = np.zeros(largest, np.float32)

    def parts(self, layer_idx: int, states: FixedStates, tokens: int, stops: list[Stop]) -> list[Part]:
        """Cut a chunk of `tokens` for a layer: at the stops, and where its graph takes no more tokens at once.

        Between two stops states go back and forth between the slot of the next stop and an array of our own, so that a
        run never writes what it reads.
        """
        names = [array.name for array in self._fixed[layer_idx]]
        if not names:
            return [Part(0, tokens, {}, {})]
        parts, at, source = [], 0, states.of(layer_idx, states.current)
        for stop in stops:
            target, between = states.of(layer_idx, stop.slot), self._arrays_between(layer_idx)
            ends = self._ends(layer_idx, at, stop.tokens)
            for number, end in enumerate(ends, 1):
                into = target if (len(ends) - number) % 2 == 0 else between
                tables = {name: table(name, end - at) for name in self._tables[layer_idx]}
                past = {f"past_{name}": array for name, array in zip(names, source, strict=True)}
                new = {f"new_{name}": array for name, array in zip(names, into, strict=True)}
                parts.append(Part(at, end, past | tables, new))
                at, source = end, into
        return parts

    def _ends(self, layer_idx: int, start: int, stop: int) -> list[int]:
        most = self._most[layer_idx] or stop - start
        return [*range(start + most, stop, most), stop]

    def _arrays_between(self, layer_idx: int) -> list[F32]:
        arrays, start = [], 0
        for array in self._fixed[layer_idx]:
            arrays.append(self._between[start : start + array.numbers].reshape(1, *array.shape))
            start += array.numbers
        return arrays
