"""The routers of all sparse layers in one block, and the graph that applies some of them: looking ahead.

The layer graphs keep routers in float32 whatever the trunk's precision (docs/format.md section 4), so the matrices are
read from their data files, and `trunk/routers.onnx` takes them as an input: neighbouring layers are one address into
the block, nothing is gathered, and memory is ours. Only the entry of a matrix is looked up in the layer's graph: name,
length and offset of its external data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cpu.trunk.external_data import check_external_data
from edge_runtime.backends.cpu.trunk.memory import loaded_bytes
from edge_runtime.base.errors import BundleError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.manifest import Manifest, can_look_ahead, trunk_file

F32 = NDArray[np.float32]
_GRAPH, _INITIALIZER, _NAME, _EXTERNAL, _KEY, _VALUE = 7, 5, 8, 13, 1, 2
_GRAPH_BYTES = 4096


def routers_bytes(spec: ModelSpec) -> int:
    """Memory that looking ahead takes: the block and a session."""
    return 4 * len(spec.sparse_layers) * spec.num_experts * spec.hidden + loaded_bytes(0, _GRAPH_BYTES, 1)


def require_routers(manifest: Manifest) -> None:
    """Check that a bundle lists the graph.

    Raises:
        BundleError: it does not.
    """
    if not can_look_ahead(manifest):
        raise BundleError(
            f"{trunk_file('routers')}: the bundle was exported before the trunk engine looked ahead. Export it again, "
            "or use --prefetch statistical, expert-map or off."
        )


class RouterStack:
    """Applies the routers of the next layers to the states of a few tokens.

    Args:
        session: of the graph; bound to arrays of our own once for every place and number of layers and tokens.
        run: runs a session over a binding.
        bind: binds an array to a binding's input or output by address.
        routers: float32 [S, D, E], see `load_routers`; kept.
        sparse_layers: their S layers, ascending.
    """

    def __init__(
        self,
        session: Any,
        run: Callable[[Any, Any], None],
        bind: Callable[[Callable[..., None], str, F32], None],
        routers: F32,
        sparse_layers: list[int],
    ) -> None:
        self._session, self._run, self._bind, self._routers = session, run, bind, routers
        self._place = {layer: i for i, layer in enumerate(sparse_layers)}
        self._x: dict[int, F32] = {}
        self._bound: dict[tuple[int, int, int], tuple[Any, F32]] = {}

    def apply(self, x: F32, layer_idx: int, depth: int) -> F32:
        """Return float32 [p, T, E]; see `Trunk.look_ahead`. Valid until the next call."""
        first, tokens = self._place[layer_idx] + 1, len(x)
        count = min(depth, len(self._routers) - first)
        if count <= 0:
            return np.empty((0, tokens, self._routers.shape[2]), np.float32)
        binding, logits = self._bound.get((first, count, tokens)) or self._binding(first, count, tokens)
        self._x[tokens][0] = x
        self._run(self._session, binding)
        return logits

    def _binding(self, first: int, count: int, tokens: int) -> tuple[Any, F32]:
        x = self._x.setdefault(tokens, np.zeros((1, tokens, self._routers.shape[1]), np.float32))
        logits = np.empty((count, tokens, self._routers.shape[2]), np.float32)
        binding = self._session.io_binding()
        self._bind(binding.bind_input, "x", x)
        self._bind(binding.bind_input, "routers", self._routers[first : first + count])
        self._bind(binding.bind_output, "router_logits", logits)
        self._bound[first, count, tokens] = binding, logits
        return binding, logits


def load_routers(bundle_path: Path, spec: ModelSpec) -> F32:
    """Return float32 [S, D, E] of the S sparse layers, in one block so that neighbouring layers are one array.

    Raises:
        BundleError: a graph does not have its router where the format says.
    """
    out = np.empty((len(spec.sparse_layers), spec.hidden, spec.num_experts), np.float32)
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
        out[i] = np.fromfile(data, np.float32, out[i].size, offset=offset).reshape(out[i].shape)
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
