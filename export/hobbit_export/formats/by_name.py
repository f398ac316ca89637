"""Which weights stored tensors make up, by their names alone: what an index says of a quantised checkpoint.

Names of all formats differ, so they tell codes from scales whatever the method. Options are checked as always; types
and shapes are not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import BundleError
from hobbit_export.arch.names import LeftOut
from hobbit_export.byte_files import LocalFiles
from hobbit_export.checkpoint import Checkpoint
from hobbit_export.formats import MARKS, PARTS, find
from hobbit_export.unread import UnreadWeight
from hobbit_export.weights import Weight

_CODES = ((".qweight", ".weight"), (".weight_packed", ".weight"), ("_blocks", ""))
"""Ends of names of codes, and what stands there in the name of the weight."""
_BESIDE_WEIGHT = (
    "_scale_inv", "_scale", "_scale_2", "_shape", "_zero_point", "_g_idx", "_global_scale", "_scales",
)  # fmt: skip
_BESIDE_MODULE = (".scales", ".qzeros", ".g_idx")
_SCALES_OF_PLAIN_CODES = ("_scale_inv", "_scale")
"""What lies beside codes that have the weight's own name."""


def weights_by_name(
    files: Mapping[str, str], folder: Path, dtype: str, quantisation: dict[str, Any] | None
) -> tuple[dict[str, Weight], tuple[LeftOut, ...]]:
    """Return every weight by the name adapters know, and what of the tensors is not needed.

    Args:
        files: stored tensor -> file.
        folder: of the files.
        dtype: safetensors type that plain weights are taken to have.
        quantisation: `quantization_config` of config.json; None: nothing is quantised.

    Raises:
        ConfigError: a method or an option of it is not supported.
        BundleError: a tensor is a part of a weight that is not there.
    """
    if quantisation is None:
        _refuse(files, MARKS, "looks quantised, but config.json has no quantization_config that says how")
        return {name: UnreadWeight.of(name, folder / file, dtype, (name,), "") for name, file in files.items()}, ()
    left_out = find(Checkpoint(folder, {}, LocalFiles(folder)), quantisation).left_out
    quantised = _quantised(files)
    used = {part for parts in quantised.values() for part in parts}
    plain = {name: file for name, file in files.items() if name not in used}
    _refuse(plain, PARTS, "a part of a quantised weight whose other parts are missing")
    twice = sorted(set(plain) & set(quantised))
    if twice:
        raise BundleError(f"{plain[twice[0]]}: tensor {twice[0]!r}: is stored in two ways. Remove one of them.")
    method = str(quantisation["quant_method"])
    weights: dict[str, Weight] = {
        name: UnreadWeight.of(name, folder / files[parts[0]], dtype, parts, method) for name, parts in quantised.items()
    }
    return weights | {n: UnreadWeight.of(n, folder / file, dtype, (n,), "") for n, file in plain.items()}, left_out


def _quantised(files: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Weight -> its stored tensors, codes first."""
    codes = {}
    for name in files:
        end = next(((stored, own) for stored, own in _CODES if name.endswith(stored)), None)
        if end is not None:
            codes[name.removesuffix(end[0]) + end[1]] = name
        elif any(name + scales in files for scales in _SCALES_OF_PLAIN_CODES):
            codes.setdefault(name, name)
    return {weight: (name, *_beside(weight, name, files)) for weight, name in codes.items()}


def _beside(weight: str, codes: str, files: Mapping[str, str]) -> list[str]:
    module = weight.removesuffix(".weight")
    ends = [module + end for end in _BESIDE_MODULE] if codes.endswith(".qweight") else []
    return [name for name in (*(weight + end for end in _BESIDE_WEIGHT), *ends) if name in files]


def _refuse(files: Mapping[str, str], ends: tuple[str, ...], what: str) -> None:
    for name, file in files.items():
        if name.endswith(ends):
            raise BundleError(f"{file}: tensor {name[:120]!r}: {what}. Download the checkpoint again.")
