"""FP8 (E4M3) weights with float scales: blocks as DeepSeek, Qwen and MiniMax publish them, rows, or a whole tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import BundleError, ConfigError
from hobbit_export.checkpoint import Checkpoint
from hobbit_export.formats.config import QuantReader, refuse_ignored
from hobbit_export.formats.grid import GridWeight, Scales
from hobbit_export.formats.numbers import E4M3
from hobbit_export.formats.parts import ACTIVATIONS, SCALES, DecodedWeights, Part, Parts

METHODS = ("fp8",)
SUFFIXES = ("_scale_inv", "_scale")
"""What a weight's scales are called beside it; both mean a factor, whatever the first one's name says."""
_BLOCK = [128, 128]
_E8M0 = "F8_E8M0"


def find(checkpoint: Checkpoint, reader: QuantReader) -> DecodedWeights:
    """Find the weights of a checkpoint in this format.

    Raises:
        ConfigError: an option is not supported.
        BundleError: a part is missing, misshapen or of a wrong type.
    """
    block = _block_size(reader)
    reader.fixed("fmt", "e4m3", "float8_e4m3fn", "e4m3fn", None)
    reader.fixed("activation_scheme", "dynamic", "static", None)
    reader.fixed("scale_fmt", "float", "ue8m0", None)
    reader.fixed("expert_dtype", "fp8", None)
    reader.fixed("modules_to_convert", None, [])
    reader.ignore("dequantize", "linear_class", "quant_algo")
    ignored = reader.words("modules_to_not_convert", "ignored_layers")
    reader.finish()
    parts, found = Parts(checkpoint), DecodedWeights(left_out=(ACTIVATIONS,))
    stated = "weight_block_size" in reader.data
    for name, info in checkpoint.tensors.items():
        if info.dtype == "F8_E4M3":
            found.add(fp8_weight(parts, name, block, stated=stated))
    refuse_ignored(found.weights.values(), ignored)
    return found


def fp8_weight(parts: Parts, name: str, block: tuple[int, int] | None, *, stated: bool = True) -> GridWeight:
    """Return an FP8 weight [N, K] or [E, N, K] with the scales stored beside it.

    Args:
        parts: of the checkpoint.
        name: of the codes.
        block: rows and columns that share a scale; None: all, or all columns of a row.
        stated: whether the configuration says so; else a weight that has as many scales as without blocks has none:
            transformers assumes blocks, and those who write a scale a tensor do not say that they have none.
    """
    codes = parts.codes(name, ("F8_E4M3",), (2, 3))
    *outer, n, k = codes.info.shape
    beside = [name + suffix for suffix in SUFFIXES if name + suffix in parts.tensors]
    if len(beside) != 1:
        which = "neither" if not beside else "both"
        raise BundleError(
            f"{codes.where}: expected {name + SUFFIXES[0]!r} or {name + SUFFIXES[1]!r} beside it, found {which}. "
            "Download the checkpoint again."
        )
    kinds, whole = (*SCALES, _E8M0), [(*outer, 1, 1), *([(1,), ()] if not outer else [])]
    if block and (stated or parts.tensors[beside[0]].shape not in (*whole, (*outer, n, 1))):
        rows, cols = block
        part = parts.get(beside[0], kinds, (*outer, -(-n // rows), -(-k // cols)))
        return _weight(codes, f"fp8 in blocks of {rows} x {cols}", Scales(part, rows, cols))
    part = parts.get(beside[0], kinds, *whole, (*outer, n, 1))
    per_row = part.info.shape == (*outer, n, 1) and n > 1
    return _weight(codes, f"fp8 with a scale a {'row' if per_row else 'tensor'}", Scales(part, 1 if per_row else n, k))


def _weight(codes: Part, kind: str, scales: Scales) -> GridWeight:
    return GridWeight.of(codes.info.name, codes.info.shape, kind, codes, decode, scales)


def decode(raw: NDArray[Any]) -> F32:
    """Return the values of E4M3 codes; NaN stays what it is, and is refused where weights are used."""
    return np.asarray(E4M3[raw])


def _block_size(reader: QuantReader) -> tuple[int, int] | None:
    value = reader.get("weight_block_size", _BLOCK)
    if value is None:
        return None
    sizes = value if isinstance(value, list) and len(value) == 2 else [0]
    if not all(type(size) is int and 0 < size <= 1 << 20 for size in sizes):
        raise ConfigError(f"{reader.where}: weight_block_size: expected two sizes or null, got {str(value)[:60]}.")
    return sizes[0], sizes[1]
