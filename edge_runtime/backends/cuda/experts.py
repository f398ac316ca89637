"""The expert kernels as the engine's seam wants them: `edge_runtime.backends.kernels.ExpertKernels` over device memory.

All work is queued on one stream and nothing here waits for it. Copies of what the host decides (experts, weights,
slots) are ordered on that stream too, so the next layer's do not overtake kernels that still read this layer's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cuda.driver import DeviceMemory, Module, Stream
from edge_runtime.backends.cuda.launches import (
    BF16,
    ExpertLaunches,
    Hidden,
    combine,
    cut_tiles,
    quantize,
)
from edge_runtime.backends.cuda.structures import ACT_GROUP, GROUP, TILE, Pairs, Tiles
from edge_runtime.backends.cuda.tensors import DeviceTensor
from edge_runtime.backends.kernels import Resident, ResidentRouter
from edge_runtime.base.arrays import F32, I32, U64, Bools
from edge_runtime.base.spec import ModelSpec

FEWEST_TOGETHER = 3
"""Pairs of one expert that go through its weights as a tile. The bits are the same either way; not measured yet."""


class CudaExpertKernels:
    """Implements `ExpertKernels` for one model.

    Args:
        module: the kernels.
        stream: orders all work.
        spec: the model.
        max_tokens: most tokens of a pass; with top-k at most 65535 pairs.
        holds: single tokens that the device routes may be held back and run as one graph.

    Raises:
        CudaMemoryError: the GPU has no room for the scratch.
    """

    resident_router: ResidentRouter[DeviceTensor] | None = None
    partial_sums = None
    """Set by whoever makes one for these kernels."""

    def __init__(
        self, module: Module, stream: Stream, spec: ModelSpec, max_tokens: int, *, holds: bool = False
    ) -> None:
        self._is_held = holds
        self._module, self._stream, self._spec = module, stream, spec
        self._launches = ExpertLaunches(module, spec.hidden, spec.top_k, spec.experts)
        self._held: dict[str, DeviceMemory] = {}
        self._tables: dict[int, tuple[Resident, DeviceMemory]] = {}
        self._resident: object = None
        self._experts: I32 = np.empty((0, 0), np.int32)
        self._x = DeviceTensor(0, 0, spec.hidden)
        self._least = _scratch(spec, max_tokens)
        try:
            for name in self._least:
                self._room(name)
        except BaseException:
            self.close()
            raise

    def begin(self, x: DeviceTensor, ids: I32, weights: F32) -> None:
        """See `ExpertKernels.begin`."""
        self._stream.holds = False
        self._x = x
        self._experts = np.where(weights == 0, np.int32(-1), ids)
        self._put("experts", self._experts)
        self._put("weights", weights)
        self._quantize()

    def run_experts(self, tier: int, segments: U64, experts: I32) -> None:
        """See `ExpertKernels.run_experts`."""
        slots = np.full(self._spec.num_experts, -1, np.int32)
        slots[experts] = np.arange(len(experts), dtype=np.int32)
        self._put("segments", segments)
        self._resident = None
        self._run(tier, slots)

    def end(self) -> DeviceTensor:
        """See `ExpertKernels.end`."""
        return self._combine(self._room("weights").address)

    def run_resident(self, x: DeviceTensor, ids: I32, weights: F32, resident: Resident) -> DeviceTensor:
        """See `ExpertKernels.run_resident`."""
        self.begin(x, ids, weights)
        self._place(resident)
        self._run(resident.tier, resident.slots)
        return self.end()

    def run_routed(self, x: DeviceTensor, chosen: tuple[int, int], resident: Resident) -> DeviceTensor:
        """Compute a layer whose experts the device has chosen.

        Args:
            x: [N, D], what enters the experts.
            chosen: addresses of experts int32 [N, K] and weights float32 [N, K]; written by earlier work of the stream.
            resident: where every expert of the layer is.

        Returns:
            As `end`.
        """
        self._stream.holds = self._is_held and x.rows == 1
        self._x = x
        self._quantize()
        self._place(resident)
        self._run_pairs(resident.tier, chosen[0], self._slots_of(resident))
        return self._combine(chosen[1])

    def release_scratch(self) -> None:
        """See `ExpertKernels.release_scratch`."""
        self.close()

    def close(self) -> None:
        """Give the device memory back. Safe to call twice; what is used again is taken again."""
        self._forget_tables()
        held, self._held, self._resident = self._held, {}, None
        for memory in held.values():
            memory.close()

    def _run(self, tier: int, slots: I32) -> None:
        """Compute the pairs whose expert has a slot: experts of several pairs by tiles, the others pair by pair."""
        together = self._together(tier, slots)
        if together is not None:
            self._run_tiles(tier, np.where(together, slots, np.int32(-1)))
            slots = np.where(together, np.int32(-1), slots)
        self._put("slots", slots)
        self._run_pairs(tier, self._room("experts").address, self._room("slots").address)

    def _run_pairs(self, tier: int, experts: int, slots: int) -> None:
        pairs = Pairs(self._room("segments").address, slots, experts)
        self._launches.run_pairs(self._stream, tier, pairs, self._x.rows * self._spec.top_k, self._hidden_at(tier))

    def _hidden_at(self, tier: int) -> Hidden:
        x = self._x.address if tier == BF16 else self._room("groups").address
        return Hidden(x, self._room("h").address, self._room("y").address)

    def _quantize(self) -> None:
        groups = self._x.rows * self._x.width // GROUP
        quantize(self._module, self._stream, self._x.address, self._room("groups").address, groups)

    def _place(self, resident: Resident) -> None:
        """Have the table of slots on the device: the same array as long as memory does not move."""
        if self._resident is not resident.addresses:
            self._forget_tables()
            self._put("segments", resident.addresses)
            self._resident = resident.addresses

    def _slots_of(self, resident: Resident) -> int:
        """Return the address of a layer's slots, which hold as long as memory does not move."""
        found = self._tables.get(id(resident))
        if found is None:
            memory = DeviceMemory(self._stream.device, resident.slots.nbytes)
            found = self._tables[id(resident)] = resident, memory
            memory.write(np.ascontiguousarray(resident.slots), self._stream)
        return found[1].address

    def _forget_tables(self) -> None:
        tables, self._tables = self._tables, {}
        for _, memory in tables.values():
            memory.close()

    def _combine(self, weights: int) -> DeviceTensor:
        size, out = (self._x.rows, self._spec.top_k, self._spec.hidden), self._room("out").address
        combine(self._module, self._stream, self._room("y").address, weights, out, size)
        return DeviceTensor(out, self._x.rows, self._spec.hidden)

    def _together(self, tier: int, slots: I32) -> Bools | None:
        """Say which experts go by tiles, [E]; None if none does."""
        if tier == BF16 or len(self._experts) < FEWEST_TOGETHER:
            return None
        counts = np.bincount(self._experts[self._experts >= 0], minlength=len(slots))
        found: Bools = (counts >= FEWEST_TOGETHER) & (slots >= 0)
        return found if found.any() else None

    def _run_tiles(self, tier: int, slots: I32) -> None:
        cut, members = cut_tiles(self._experts.ravel(), slots)
        self._put("tiles", cut)
        self._put("members", members)
        addresses = (self._room(name).address for name in ("segments", "tiles", "members"))
        self._launches.run_tiles(self._stream, tier, Tiles(*addresses), len(cut), self._hidden_at(tier))

    def _put(self, name: str, array: NDArray[Any]) -> None:
        """Copy an array of the host, which has been read when this returns."""
        self._room(name, array.nbytes).write(np.ascontiguousarray(array), self._stream)

    def _room(self, name: str, nbytes: int = 0) -> DeviceMemory:
        """Return the memory of a name, of at least so many bytes; a larger one takes its place when needed."""
        found, nbytes = self._held.get(name), max(nbytes, self._least.get(name, TILE.itemsize))
        if found is None or found.nbytes < nbytes:
            if found is not None:
                found.close()  # waits for kernels that use it
            self._held[name] = found = DeviceMemory(self._stream.device, nbytes)
        return found


def _scratch(spec: ModelSpec, max_tokens: int) -> dict[str, int]:
    """Bytes of what passes of so many tokens need, by name; for bfloat16 activations, which are the widest."""
    pairs = max_tokens * spec.top_k
    return {
        "groups": max_tokens * spec.hidden // GROUP * ACT_GROUP.itemsize,
        "h": 4 * pairs * spec.experts.intermediate,
        "y": 4 * pairs * spec.hidden,
        "out": 4 * max_tokens * spec.hidden,
    }


def expert_scratch_bytes(spec: ModelSpec, max_tokens: int) -> int:
    """Return the most that kernels for passes of so many tokens take: activations, and tables of pairs and slots."""
    pairs = max_tokens * spec.top_k
    tables = pairs * (2 * 4 + 4 + TILE.itemsize) + spec.num_experts * (4 + 4 * 8)
    return sum(_scratch(spec, max_tokens).values()) + tables
