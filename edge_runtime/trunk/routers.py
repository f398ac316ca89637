"""Router matrices of a bundle, read out of the layer graphs' data files, for looking ahead.

The graphs keep routers in float32 whatever the trunk's precision (docs/format.md section 4). Only the entry of the
matrix is looked up in the graph: name, length and offset of its external data.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import BundleError
from edge_runtime.format.manifest import trunk_file
from edge_runtime.spec import ModelSpec
from edge_runtime.trunk.external_data import check_external_data

F32 = NDArray[np.float32]
_GRAPH, _INITIALIZER, _NAME, _EXTERNAL, _KEY, _VALUE = 7, 5, 8, 13, 1, 2


def routers_bytes(spec: ModelSpec) -> int:
    """Memory `load_routers` takes."""
    return 4 * len(spec.sparse_layers) * spec.num_experts * spec.hidden


def load_routers(bundle_path: Path, spec: ModelSpec) -> F32:
    """Return float32 [sparse layers, E, D], in one block so that routers of neighbouring layers are one matrix.

    Raises:
        BundleError: a graph does not have its router where the format says.
    """
    out = np.empty((len(spec.sparse_layers), spec.num_experts, spec.hidden), np.float32)
    for i, layer_idx in enumerate(spec.sparse_layers):
        part = trunk_file("layer", layer_idx)
        path = bundle_path / part
        graph, data = path.read_bytes(), path.with_suffix(".data")
        check_external_data(part, graph, data.name)
        try:
            offset, length = _region(graph, f"layers.{layer_idx}.router")
        except (ValueError, IndexError, KeyError, UnicodeDecodeError) as err:
            raise BundleError(f"{part}: the router's matrix is not where the format says. Export again.") from err
        if length != out[i].nbytes or offset < 0 or offset + length > data.stat().st_size:
            raise BundleError(f"{part}: router: expected {out[i].nbytes} bytes of data, got {length} at {offset}.")
        stored = np.fromfile(data, np.float32, spec.hidden * spec.num_experts, offset=offset)
        out[i] = stored.reshape(spec.hidden, spec.num_experts).T
    return out


def _region(model: bytes, name: str) -> tuple[int, int]:
    """Offset and length of the external data of an initializer."""
    for graph in _messages(model, _GRAPH):
        for tensor in _messages(graph, _INITIALIZER):
            if next(_messages(tensor, _NAME), b"") == name.encode():
                entries = {
                    next(_messages(entry, _KEY)).decode(): next(_messages(entry, _VALUE)).decode()
                    for entry in _messages(tensor, _EXTERNAL)
                }
                return int(entries["offset"]), int(entries["length"])
    raise KeyError(name)


def _messages(data: bytes, field: int) -> Iterator[bytes]:
    """Yield the length-delimited values of one field of a protocol buffer message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("a field runs past its message")
            if tag >> 3 == field:
                yield data[at : at + size]
            at += size
        elif kind == 0:
            _, at = _varint(data, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("a number is too long")
