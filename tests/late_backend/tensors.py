"""Tensors in the device's memory. The host passes them on; whatever else it tries with one raises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import DeviceError
from late_backend.device import COMPUTE, Device


class Numbers:
    """The numbers of a tensor, for the device's thread alone.

    Args:
        device: computes them.
        shape: of the tensor.
        whole: the numbers these are a part of; None: none.
    """

    def __init__(self, device: Device, shape: tuple[int, int], whole: Numbers | None = None) -> None:
        self._device, self.shape, self._whole = device, shape, whole
        self._array: F32 | None = None
        self._is_stale = False

    @property
    def array(self) -> F32:
        """Float32, once it was computed."""
        self._device.require_inside("a tensor")
        assert self._array is not None, "read before it was computed"
        return self._array

    @array.setter
    def array(self, array: F32) -> None:
        self._device.require_inside("a tensor")
        self._array = array

    @property
    def is_stale(self) -> bool:
        """Whether the memory has been given to something else."""
        return self._is_stale or (self._whole is not None and self._whole.is_stale)

    def retire(self) -> None:
        """The memory is used again: whoever still uses the tensor is told so. What was queued before may go on."""
        self._is_stale = True


def _refuse(name: str) -> Any:
    def refused(self: LateTensor, *_: object, **__: object) -> Any:
        raise DeviceError(f"a tensor of the device was touched by the host: {name}")

    return refused


class LateTensor:
    """What the engine gets: it can be passed on, and dropped."""

    __slots__ = ("_numbers",)

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    @property
    def numbers(self) -> Numbers:
        """What it stands for; an error if it is not valid any more."""
        if self._numbers.is_stale:
            raise DeviceError("a tensor was used after its memory was given to something else")
        return self._numbers

    __hash__ = object.__hash__


TOUCHING = [
    "__array__",
    "__len__",
    "__iter__",
    "__getitem__",
    "__setitem__",
    "__contains__",
    "__bool__",
    "__float__",
    "__int__",
    "__index__",
    "__bytes__",
    "__eq__",
    "__ne__",
    "__lt__",
    "__le__",
    "__gt__",
    "__ge__",
    "__add__",
    "__radd__",
    "__iadd__",
    "__sub__",
    "__mul__",
    "__rmul__",
    "__truediv__",
    "__matmul__",
    "__rmatmul__",
    "__neg__",
    "__copy__",
    "__deepcopy__",
    "__reduce_ex__",
    "__array_ufunc__",
    "__array_function__",
    "__dlpack__",
    "__buffer__",
    "tobytes",
]
for _name in TOUCHING:
    setattr(LateTensor, _name, _refuse(_name))


class LateTensors:
    """Arithmetic in the order of the device's queue. Implements `TensorOps`."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def join(self, parts: Sequence[LateTensor]) -> LateTensor:
        """See `TensorOps.join`."""
        sources = [part.numbers for part in parts]
        out = Numbers(self._device, (sum(source.shape[0] for source in sources), sources[0].shape[1]))

        def run() -> None:
            out.array = np.concatenate([source.array for source in sources])

        self._device.push(COMPUTE, "tensors", run)
        return LateTensor(out)

    def split(self, whole: LateTensor, rows: Sequence[int]) -> list[LateTensor]:
        """See `TensorOps.split`: parts share its memory, and end with it."""
        source = whole.numbers
        outs = [Numbers(self._device, (count, source.shape[1]), source) for count in rows]
        ends = list(accumulate(rows))

        def run() -> None:
            for out, start, end in zip(outs, [0, *ends], ends, strict=False):
                out.array = source.array[start:end]

        self._device.push(COMPUTE, "tensors", run)
        return [LateTensor(out) for out in outs]

    def add(self, into: LateTensor, more: LateTensor) -> None:
        """See `TensorOps.add`."""
        target, source = into.numbers, more.numbers

        def run() -> None:
            target.array += source.array

        self._device.push(COMPUTE, "tensors", run)

    def to_host(self, tensor: LateTensor) -> F32:
        """See `TensorOps.to_host`: waits for it."""
        source = tensor.numbers
        return fetched(self._device, source.shape, "to_host", lambda: source.array)


def fetched(device: Device, shape: tuple[int, ...], kind: str, compute: Callable[[], F32]) -> F32:
    """Have the device compute something and copy it to the host; return it once it is there.

    Args:
        device: computes.
        shape: of the result, which is NaN until the copy has run.
        kind: what the work counts as.
        compute: gives the numbers, on the device.
    """
    landed = np.full(shape, np.nan, np.float32)

    def run() -> None:
        landed[:] = compute()

    device.push(COMPUTE, kind, run)
    device.finish(COMPUTE)
    return landed
