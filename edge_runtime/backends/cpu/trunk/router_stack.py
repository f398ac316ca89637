"""The routers of all sparse layers in one block, and the graph that applies some of them: looking ahead.

The bundle holds the block as data, `trunk/routers.bin`. `trunk/routers.onnx` takes routers as an input: those of
neighbouring layers are one address into the block, so nothing is gathered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edge_runtime.backends.cpu.trunk.external_data import check_external_data
from edge_runtime.backends.cpu.trunk.memory import loaded_bytes
from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import BundleError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.manifest import Manifest, can_look_ahead
from edge_runtime.bundle.part_names import ROUTERS, stacked_routers_bytes, trunk_file

_STORED = np.dtype("<f4")
_GRAPH_BYTES = 4096


def routers_bytes(spec: ModelSpec) -> int:
    """Memory that looking ahead takes: the block and a session."""
    return stacked_routers_bytes(spec) + loaded_bytes(0, _GRAPH_BYTES, 1)


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


def load_routers(bundle: Bundle) -> F32:
    """Return the routers of the S sparse layers, float32 [S, D, E], in one block: neighbouring layers are one array.

    Args:
        bundle: its parts were checked.

    Raises:
        BundleError: a file cannot be read, or a graph does not have its router where the format says.
    """
    spec, manifest = bundle.manifest.model, bundle.manifest
    shape = (len(spec.sparse_layers), spec.hidden, spec.num_experts)
    listed = next((part for part in manifest.parts if part.name == ROUTERS), None)
    if listed is None:
        return np.stack([_router_of_graph(bundle, layer_idx) for layer_idx in spec.sparse_layers])
    return np.fromfile(bundle.file_of(listed), _STORED).reshape(shape).astype(np.float32, copy=False)


def _router_of_graph(bundle: Bundle, layer_idx: int) -> F32:
    """Return a layer's router, float32 [D, E], from its graph's data; earlier bundles hold it only there."""
    spec, graph = bundle.manifest.model, bundle.manifest.part(trunk_file("layer", layer_idx))
    path = bundle.file_of(graph)
    data, expected = path.with_suffix(".data"), 4 * spec.hidden * spec.num_experts
    region = check_external_data(graph.name, path.read_bytes(), data.name).get(f"layers.{layer_idx}.router")
    if region is None:
        raise BundleError(f"{graph.name}: the router's matrix is not where the format says. Export again.")
    if region.length != expected or not 0 <= region.offset <= data.stat().st_size - expected:
        raise BundleError(f"{graph.name}: router: expected {expected} bytes of data, got {region}. Export again.")
    values = np.fromfile(data, _STORED, expected // 4, offset=region.offset)
    return values.reshape(spec.hidden, spec.num_experts)
