"""The stored tensors a quantised weight is made of: found, and their types and shapes checked before any is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import BundleError
from hobbit_export.arch.names import LeftOut
from hobbit_export.checkpoint import Checkpoint, to_f32
from hobbit_export.formats.numbers import E4M3, e8m0
from hobbit_export.safetensors import TensorInfo
from hobbit_export.weights import Weight

SCALES = ("F32", "BF16", "F16")
ACTIVATIONS = LeftOut(
    re.compile(r".*[._](input|output|activation|q|k|v)(_global)?_scale|.*[._](k|v)_zero_point"),
    "scales of quantised activations: activations are not quantised as this source would",
)


@dataclass
class DecodedWeights:
    """What a format made of a checkpoint.

    Attributes:
        weights: of the format, by the name the plain weight would have.
        used: the stored tensors they are made of.
        left_out: stored tensors of the format that are not needed.
    """

    weights: dict[str, Weight] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    left_out: tuple[LeftOut, ...] = ()

    def add(self, weight: Weight) -> None:
        """Add a weight.

        Raises:
            BundleError: it is stored twice.
        """
        if weight.name in self.weights:
            raise BundleError(f"{weight.file.name}: tensor {weight.name!r}: is stored in two ways. Remove one of them.")
        self.weights[weight.name] = weight
        self.used.update(weight.parts)


@dataclass(frozen=True)
class Part:
    """One stored tensor."""

    checkpoint: Checkpoint
    info: TensorInfo

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.info.file.name}: tensor {self.info.name!r}"

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows in its own type."""
        return self.checkpoint.rows_of(self.info, start, stop)

    def read(self) -> NDArray[Any]:
        """Read it whole, in its own shape and type."""
        return self.rows(0, self.info.rows).reshape(self.info.shape)

    def reshaped(self, *shape: int) -> Part:
        """Return the same bytes in another shape."""
        assert prod(shape) == prod(self.info.shape)
        return Part(self.checkpoint, replace(self.info, shape=shape))

    def read_scales(self, start: int, stop: int) -> F32:
        """Read rows of scales as float32.

        Raises:
            BundleError: one is not finite.
        """
        raw = self.rows(start, stop)
        if self.info.dtype == "F8_E4M3":
            return self.finite(np.asarray(E4M3[raw]))
        return self.finite(e8m0(raw) if raw.dtype == np.uint8 else to_f32(raw))

    def finite(self, scales: F32) -> F32:
        """Return scales, or refuse them by the tensor's name."""
        if not np.isfinite(scales).all():
            raise BundleError(f"{self.where}: expected finite scales, got infinity or NaN. Export a sound checkpoint.")
        return scales


class Parts:
    """Finds the parts of the weights of a checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.tensors: Mapping[str, TensorInfo] = checkpoint.tensors

    def ending(self, suffix: str) -> list[str]:
        """Return what stands before a suffix in the names that have it, sorted."""
        return sorted(name[: -len(suffix)] for name in self.tensors if name.endswith(suffix))

    def get(self, name: str, dtypes: tuple[str, ...], *shapes: tuple[int, ...]) -> Part:
        """Return a part that has one of these types and shapes.

        Raises:
            BundleError: it is missing, or has another type or shape.
        """
        info = self.tensors.get(name)
        if info is None:
            raise BundleError(
                f"{self.checkpoint.path.name}: tensor {name!r} is missing: a part of a quantised weight. "
                "Download the checkpoint again."
            )
        where = f"{info.file.name}: tensor {name!r}"
        if info.dtype not in dtypes:
            raise BundleError(
                f"{where}: expected {' or '.join(dtypes)}, got {info.dtype}. config.json does not fit it."
            )
        if info.shape not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
            raise BundleError(f"{where}: expected shape {wanted}, got {list(info.shape)}. config.json does not fit it.")
        return Part(self.checkpoint, info)

    def optional(self, name: str, dtypes: tuple[str, ...], *shapes: tuple[int, ...]) -> Part | None:
        """Return a part as `get` does, None where there is none."""
        return self.get(name, dtypes, *shapes) if name in self.tensors else None

    def codes(self, name: str, dtypes: tuple[str, ...], dimensions: tuple[int, ...]) -> Part:
        """Return the part that holds a weight's codes: its own shape says how large the weight is.

        Raises:
            BundleError: it has another type, or another number of dimensions, or one of no length.
        """
        info = self.tensors[name]
        if info.dtype in dtypes and (len(info.shape) not in dimensions or 0 in info.shape):
            numbers = " or ".join(map(str, dimensions))
            raise BundleError(
                f"{info.file.name}: tensor {name!r}: expected {numbers} dimensions, none of length 0, "
                f"got shape {list(info.shape)}. Download the checkpoint again."
            )
        return self.get(name, dtypes, info.shape)


def total_bytes(*parts: Part | None) -> int:
    """Bytes of all parts."""
    return sum(part.info.num_bytes for part in parts if part is not None)


def names(*parts: Part | None) -> tuple[str, ...]:
    """Names of all parts."""
    return tuple(part.info.name for part in parts if part is not None)
