"""A plan that was loaded: which addresses its inputs and outputs have, and its place in the order of a stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.base.errors import DeviceError

Bound = Mapping[str, tuple[int, tuple[int, ...]]]
"""Address and shape of each input and output, by name."""


class LoadedEngine:
    """One plan on the GPU. Contexts are made for each profile when it is first run, and work in memory lent to them.

    Args:
        module: bindings of TensorRT.
        runtime: made by them.
        plan: what was built.
        part: its name, for messages.

    Attributes:
        scratch_bytes: most memory it works in.

    Raises:
        DeviceError: the plan is of another version or GPU, or damaged.
    """

    def __init__(self, module: Any, runtime: Any, plan: bytes, part: str) -> None:
        self._trt, self._part = module, part
        self._engine = runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise DeviceError(f"{part}: TensorRT {module.__version__} does not take its plan.")
        self.scratch_bytes = int(self._engine.device_memory_size_v2)
        self._contexts: dict[int, Any] = {}
        self._bound: dict[int, dict[str, tuple[int, tuple[int, ...]]]] = {}

    def run(self, profile: int, bound: Bound, scratch: tuple[int, int], stream: int) -> None:
        """Queue it.

        Args:
            profile: its index.
            bound: what it reads and writes; must stay until it has run.
            scratch: address and bytes of memory nothing else uses until then.
            stream: the driver's handle.

        Raises:
            DeviceError: TensorRT refused.
        """
        context = self._contexts.get(profile) or self._make_context(profile, stream)
        known = self._bound[profile]
        if known.get("") != (scratch[0], ()):
            context.set_device_memory(*scratch)
            known[""] = (scratch[0], ())
        for name, (address, shape) in bound.items():
            if known.get(name) == (address, shape):
                continue
            is_input = self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
            if is_input and not context.set_input_shape(name, shape):
                raise DeviceError(f"{self._part}: TensorRT does not take {list(shape)} as the shape of {name!r}.")
            if not context.set_tensor_address(name, address):
                raise DeviceError(f"{self._part}: TensorRT has no {name!r}.")
            known[name] = (address, shape)
        if not context.execute_async_v3(stream):
            raise DeviceError(f"{self._part}: TensorRT failed to run it. Its log says more.")

    def _make_context(self, profile: int, stream: int) -> Any:
        context = self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None or not context.set_optimization_profile_async(profile, stream):
            raise DeviceError(f"{self._part}: TensorRT makes no context for profile {profile}. Is there memory left?")
        self._contexts[profile], self._bound[profile] = context, {}
        return context

    def close(self) -> None:
        """Give its memory back. Safe to call twice."""
        self._contexts.clear()
        self._engine = None
