"""Layers whose experts are all in memory, routed on the device: `edge_runtime.backends.kernels.ResidentRouter`.

The host queues a whole layer without learning what was chosen. It asks for that later, once for many layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edge_runtime.backends.cuda.driver import DeviceMemory, Module, Stream
from edge_runtime.backends.cuda.experts import CudaExpertKernels
from edge_runtime.backends.cuda.known import unknown_parts
from edge_runtime.backends.cuda.launches import RouterLaunch
from edge_runtime.backends.cuda.structures import MOST_EXPERTS, MOST_RANKS, RouterTensors
from edge_runtime.backends.cuda.tensors import DeviceTensor
from edge_runtime.backends.kernels import Resident
from edge_runtime.base.arrays import I32
from edge_runtime.base.spec import RouterSpec
from edge_runtime.bundle.bundle import Bundle


class CudaResidentRouter:
    """Implements `ResidentRouter` for one model.

    Args:
        module: the kernels.
        stream: orders all work; that of `kernels`.
        kernels: compute the experts.
        router: the rule. Layers that choose by token ids are not for a device that is not told them.
        tensors: numbers of a layer by its index, in device memory; none for layers whose rule has none.
        held: that memory, if it is closed with this.

    Raises:
        ValueError: the rule has hashed layers, or more experts than a warp takes. Route on the host then.
    """

    def __init__(
        self,
        module: Module,
        stream: Stream,
        kernels: CudaExpertKernels,
        router: RouterSpec,
        tensors: Mapping[int, RouterTensors],
        held: Sequence[DeviceMemory] = (),
    ) -> None:
        if router.hashed_layers:
            raise ValueError("route: expected no layers that choose by token ids. Route on the host.")
        self._launch, self._top_k = RouterLaunch(module, router), router.top_k
        self._stream, self._kernels, self._tensors, self._held = stream, kernels, tensors, [*held]
        self._queued: list[tuple[int, int, DeviceMemory]] = []  # layer, tokens, what was chosen
        self._free: list[DeviceMemory] = []

    def run(self, layer_idx: int, x: DeviceTensor, router_logits: DeviceTensor, resident: Resident) -> DeviceTensor:
        """See `ResidentRouter.run`."""
        chosen = self._take(8 * x.rows * self._top_k)
        where = chosen.address, chosen.address + 4 * x.rows * self._top_k  # experts, then weights
        tensors = self._tensors.get(layer_idx, RouterTensors())
        self._launch.run(self._stream, router_logits.address, tensors, where, x.rows)
        self._queued.append((layer_idx, x.rows, chosen))
        return self._kernels.run_routed(x, where, resident)

    def take_uses(self) -> list[tuple[int, I32]]:
        """See `ResidentRouter.take_uses`."""
        found = []
        for layer_idx, tokens, chosen in self._queued:
            both = np.empty((2, tokens * self._top_k), np.int32)
            chosen.read(both, self._stream)
            found.append((layer_idx, both))
            self._free.append(chosen)
        self._queued.clear()
        self._stream.synchronize()
        return [(layer_idx, np.unique(both[0][both[1].view(np.float32) != 0])) for layer_idx, both in found]

    def close(self) -> None:
        """Give the device memory back. Safe to call twice."""
        for memory in [*self._free, *(chosen for *_, chosen in self._queued), *self._held]:
            memory.close()
        self._held.clear()
        self._free.clear()
        self._queued.clear()

    def _take(self, nbytes: int) -> DeviceMemory:
        """Return memory of at least so many bytes that no queued layer uses."""
        for index, memory in enumerate(self._free):
            if memory.nbytes >= nbytes:
                return self._free.pop(index)
        return DeviceMemory(self._stream.device, nbytes)


def routes_on_device(rule: RouterSpec) -> bool:
    """Whether the device knows a rule; others are the host's."""
    is_known = next(unknown_parts(rule, "router"), None) is None
    return is_known and rule.num_experts <= MOST_EXPERTS and rule.top_k <= MOST_RANKS


def make_resident_router(
    module: Module, stream: Stream, kernels: CudaExpertKernels, bundle: Bundle
) -> CudaResidentRouter | None:
    """Return a router for a bundle's model; None where the rule is one for the host.

    Raises:
        BundleError: the rule's numbers are damaged.
        CudaMemoryError: the GPU has no room for them.
    """
    spec = bundle.manifest.model
    rule = spec.router
    if not routes_on_device(rule):
        return None
    data, held, rows = bundle.router_data(), list[DeviceMemory](), dict[str, int]()
    try:
        for name in ("logit_bias", "selection_bias", "expert_scale"):
            array = getattr(data, name)
            if array is not None:
                held.append(DeviceMemory(stream.device, array.nbytes))
                held[-1].write(np.ascontiguousarray(array), stream)
                rows[name] = held[-1].address
    except BaseException:
        for memory in held:
            memory.close()
        raise
    tensors = {
        layer: RouterTensors(**{name: address + 4 * place * rule.num_experts for name, address in rows.items()})
        for place, layer in enumerate(spec.sparse_layers)
    }
    return CudaResidentRouter(module, stream, kernels, rule, tensors, held)
