"""Expert kernels on the late device: the CPU backend's, run by the device's thread, over slots only it can find."""

from __future__ import annotations

import numpy as np

from edge_runtime.backends.cpu.experts import CpuKernels
from edge_runtime.backends.kernels import Resident
from edge_runtime.base.arrays import F32, I32, U64
from edge_runtime.base.spec import ModelSpec
from edge_runtime.policy.routing import Router
from late_backend.device import COMPUTE, Device
from late_backend.memory import DeviceMemory
from late_backend.tensors import LateTensor, Numbers


class LateKernels:
    """Implements `ExpertKernels`."""

    partial_sums = None

    def __init__(
        self, device: Device, memory: DeviceMemory, inner: CpuKernels, spec: ModelSpec, router: Router
    ) -> None:
        self._device, self._memory, self._inner, self._hidden = device, memory, inner, spec.hidden
        self._result = Numbers(device, (0, spec.hidden))
        self._tokens = 0
        self.resident_router = LateResidentRouter(self, device, memory, router)

    def begin(self, x: LateTensor, ids: I32, weights: F32) -> None:
        """See `ExpertKernels.begin`."""
        source, ids, weights = x.numbers, ids.copy(), weights.copy()
        self._tokens = len(ids)
        self._device.push(COMPUTE, "experts", lambda: self._inner.begin(source.array, ids, weights))

    def run_experts(self, tier: int, segments: U64, experts: I32) -> None:
        """See `ExpertKernels.run_experts`."""
        segments, experts = segments.copy(), experts.copy()

        def run() -> None:
            self._inner.run_experts(tier, self._memory.real_segments(segments), experts)

        self._memory.push_kernels("experts", read_of(segments, tier), run)

    def end(self) -> LateTensor:
        """See `ExpertKernels.end`."""
        out = self.next_result(self._tokens)

        def run() -> None:
            out.array = self._inner.end().copy()

        self._device.push(COMPUTE, "experts", run)
        return LateTensor(out)

    def run_resident(self, x: LateTensor, ids: I32, weights: F32, resident: Resident) -> LateTensor:
        """See `ExpertKernels.run_resident`."""
        source, out, place = x.numbers, self.next_result(len(ids)), placed(resident)
        ids, weights = ids.copy(), weights.copy()
        read = read_of(place.addresses[place.slots[np.unique(ids[weights != 0])]], place.tier)
        self._memory.push_kernels("experts", read, lambda: self.compute(source, ids, weights, place, out))
        return LateTensor(out)

    def release_scratch(self) -> None:
        """See `ExpertKernels.release_scratch`."""
        self._device.push(COMPUTE, "release scratch", self._inner.release_scratch)

    def next_result(self, tokens: int) -> Numbers:
        """Return where the next layer's result goes: the memory of the last one's."""
        self._result.retire()
        self._result = Numbers(self._device, (tokens, self._hidden))
        return self._result

    def compute(self, source: Numbers, ids: I32, weights: F32, place: Resident, out: Numbers) -> None:
        """On the device: compute a layer whose experts are all in memory."""
        used = np.unique(place.slots[ids[weights != 0]])
        addresses = np.zeros_like(place.addresses)
        addresses[used] = self._memory.real_segments(place.addresses[used])
        out.array = self._inner.run_resident(
            source.array, ids, weights, Resident(place.tier, addresses, place.slots)
        ).copy()


class LateResidentRouter:
    """Routes on the device: the host learns what was chosen when it asks, at the end. Implements `ResidentRouter`."""

    def __init__(self, kernels: LateKernels, device: Device, memory: DeviceMemory, router: Router) -> None:
        self._kernels, self._device, self._memory, self._router = kernels, device, memory, router
        self._uses: list[tuple[int, I32]] = []

    def run(self, layer_idx: int, x: LateTensor, router_logits: LateTensor, resident: Resident) -> LateTensor:
        """See `ResidentRouter.run`."""
        source, logits, place = x.numbers, router_logits.numbers, placed(resident)
        out = self._kernels.next_result(source.shape[0])

        def run() -> None:
            routing = self._router.route(layer_idx, np.ascontiguousarray(logits.array))
            self._kernels.compute(source, routing.topk_ids, routing.topk_weights, place, out)
            used = routing.topk_ids[routing.topk_weights != 0]
            self._uses.append((layer_idx, np.unique(used)))

        self._memory.push_kernels("routed experts", read_of(place.addresses[place.slots], place.tier), run)
        return LateTensor(out)

    def take_uses(self) -> list[tuple[int, I32]]:
        """See `ResidentRouter.take_uses`."""
        self._device.finish()
        uses, self._uses = self._uses, []
        return uses


def read_of(segments: U64, tier: int) -> U64:
    """Return the segments uint64 [n, m] that kernels read at a tier, of all of them."""
    return segments[:, : 1 if tier == 16 else tier // 2]


def placed(resident: Resident) -> Resident:
    """Copy what the host may change before the work runs."""
    return Resident(resident.tier, resident.addresses.copy(), resident.slots.copy())
