"""One module of compressed-tensors: its codes, scales and zero points, by the scheme of its group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import BundleError
from hobbit_export.formats import fp8, mxfp4
from hobbit_export.formats.grid import GridWeight, Scales
from hobbit_export.formats.numbers import e2m1, integers
from hobbit_export.formats.nvfp4 import nvfp4_weight
from hobbit_export.formats.parts import SCALES, Part, Parts


class Scheme(NamedTuple):
    """How the weights of a group of modules are stored.

    Attributes:
        format: name of the compressor.
        number: "int" or "float".
        strategy: what shares a scale: group, tensor_group, channel, tensor or block.
        group: inputs of a group, 0 where there are none.
        block: rows and columns of a block, () where there are none.
        symmetric: there are no zero points.
    """

    format: str
    number: str
    bits: int
    strategy: str
    group: int
    block: tuple[int, ...]
    symmetric: bool


def module_weight(parts: Parts, module: str, scheme: Scheme) -> GridWeight:
    """Return the weight of a module.

    Raises:
        BundleError: a part is missing, misshapen or of a wrong type.
    """
    name = f"{module}.weight"
    if scheme.format == "nvfp4-pack-quantized":
        outer = f"{module}.weight_global_scale"
        _packed(parts, module)
        return nvfp4_weight(parts, name, f"{module}.weight_packed", f"{module}.weight_scale", outer, divide=True)
    if scheme.format == "mxfp4-pack-quantized":
        _packed(parts, module)
        codes = parts.codes(f"{module}.weight_packed", ("U8",), (2,))
        n, half = codes.info.shape
        size = mxfp4.BLOCK
        part = parts.get(f"{module}.weight_scale", ("U8", "F8_E8M0"), (n, -(-2 * half // size)))
        return GridWeight.of(name, (n, 2 * half), "mxfp4", codes, e2m1, Scales(part, 1, size))
    return _packed_integers(parts, module, scheme) if scheme.format == "pack-quantized" else _whole(parts, name, scheme)


def _packed(parts: Parts, module: str) -> None:
    if f"{module}.weight_packed" not in parts.tensors:
        raise BundleError(
            f"{parts.checkpoint.path.name}: tensor {module + '.weight_packed'!r} is missing: a part of a quantised "
            "weight. Download the checkpoint again."
        )


def _whole(parts: Parts, name: str, scheme: Scheme) -> GridWeight:
    """FP8 or int8, a byte a weight."""
    kind = "F8_E4M3" if scheme.number == "float" else "I8"
    if name not in parts.tensors:
        parts.get(name, (kind,), ())
    codes = parts.codes(name, (kind,), (2,))
    n, k = codes.info.shape
    scales = _scales(parts, name, scheme, n, k)
    zero = None
    if not scheme.symmetric:
        zero = parts.get(f"{name}_zero_point", ("I8",), scales.part.info.shape)
    decode: Callable[[NDArray[Any]], F32] = fp8.decode if kind == "F8_E4M3" else _integers
    zeros = None if zero is None else _zeros(zero, scales.rows)
    return GridWeight.of(name, (n, k), _kind(scheme), codes, decode, scales, zero, zeros=zeros)


def _packed_integers(parts: Parts, module: str, scheme: Scheme) -> GridWeight:
    """4 or 8 bits in words of 32, each number with 2^(bits - 1) added; zero points the same, packed along rows."""
    name, bits = f"{module}.weight", scheme.bits
    _packed(parts, module)
    codes = parts.codes(f"{name}_packed", ("I32",), (2,))
    stated = parts.get(f"{name}_shape", ("I64", "I32"), (2,))
    n, k = (int(size) for size in stated.read())
    if (n, -(-k * bits // 32)) != codes.info.shape or k <= 0:
        raise BundleError(
            f"{stated.where}: expected the shape of {list(codes.info.shape)} words of {32 // bits} numbers, "
            f"got {[n, k]}. Download the checkpoint again."
        )
    scales = _scales(parts, name, scheme, n, k)
    order = parts.optional(f"{module}.weight_g_idx", ("I32", "I64"), (k,))
    if order is not None and not np.array_equal(order.read(), np.arange(k) // scales.cols):
        raise BundleError(f"{order.where}: groups of inputs that do not follow each other are not read in this format.")
    zero, zeros, packed = None, None, scheme.strategy in ("group", "tensor_group", "channel")
    if not scheme.symmetric and packed:
        shape = (-(-n * bits // 32), scales.part.info.cols)
        zero = parts.get(f"{name}_zero_point", ("I32",), shape)
        zeros = _packed_zeros(zero, bits)
    elif not scheme.symmetric:
        zero = parts.get(f"{name}_zero_point", ("I8",), scales.part.info.shape)
        zeros = _zeros(zero, scales.rows)

    def unpack(raw: NDArray[Any]) -> F32:
        return _shifted(integers(raw, bits), bits)

    return GridWeight.of(name, (n, k), _kind(scheme), codes, unpack, scales, stated, zero, order, zeros=zeros)


def _scales(parts: Parts, name: str, scheme: Scheme, n: int, k: int) -> Scales:
    scale = f"{name}_scale"
    if scheme.strategy == "block":
        rows, cols = scheme.block
        return Scales(parts.get(scale, SCALES, (-(-n // rows), -(-k // cols))), rows, cols)
    if scheme.strategy == "tensor":
        return Scales(parts.get(scale, SCALES, (1,), (), (1, 1)), n, k)
    if scheme.strategy == "channel":
        return Scales(parts.get(scale, SCALES, (n, 1)), 1, k)
    return Scales(parts.get(scale, SCALES, (n, -(-k // scheme.group))), 1, scheme.group)


def _zeros(part: Part, height: int) -> Callable[[int, int, int], F32]:
    """Zero points int8 that lie as scales of blocks of this height do."""

    def rows(_: int, start: int, stop: int) -> F32:
        first = start // height
        found = _integers(part.rows(first, (stop - 1) // height + 1))
        return np.asarray(found[np.arange(start, stop) // height - first])

    return rows


def _packed_zeros(part: Part, bits: int) -> Callable[[int, int, int], F32]:
    """Zero points [N, C] packed along N."""
    per_word = 32 // bits

    def rows(_: int, start: int, stop: int) -> F32:
        first = start // per_word
        words = part.rows(first, -(-stop // per_word))
        found = _shifted(integers(words.T, bits), bits).T
        return np.asarray(found[start - first * per_word : stop - first * per_word])

    return rows


def _integers(raw: NDArray[Any]) -> F32:
    return np.asarray(raw, np.float32)


def _shifted(codes: F32, bits: int) -> F32:
    """Take off, in place, the 2^(bits - 1) that was added before packing."""
    codes -= np.float32(1 << (bits - 1))
    return codes


def _kind(scheme: Scheme) -> str:
    shared = {"group": f"groups of {scheme.group}", "channel": "rows", "tensor": "tensors", "block": "blocks"}
    return f"compressed-tensors {scheme.number}{scheme.bits} in {shared[scheme.strategy]}"
