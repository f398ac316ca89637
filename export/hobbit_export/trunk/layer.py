"""The graph of a decoder layer: what the layer before left, attention, and what the feed-forward part starts from.

Experts run outside the graphs. Where something comes behind them (norms, a network in parallel, a factor), the next
layer's graph begins with it, or the head's.
"""

from __future__ import annotations

import numpy as np

from edge_runtime.backends.cpu.trunk.signature import layer_signature
from edge_runtime.backends.cpu.trunk.weight_source import TrunkWeights
from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import ModelSpec, mixer_kind
from hobbit_export.trunk.attention import EMITTERS
from hobbit_export.trunk.attention.context import Emission
from hobbit_export.trunk.blocks import add_norm, mlp, norm, rms_norm, scaled
from hobbit_export.trunk.graph import Graph
from hobbit_export.trunk.linear import LinearWriter, Matrix

_Parts = tuple[str, str | None]
"""Values that add up to the residual stream; one, or two that are not added yet."""


class LayerGraph:
    """Emits one layer.

    Args:
        spec: the model.
        layer_idx: the layer; L for the head, which begins like one.
        weights: dense weights by canonical name.
        graph: takes the nodes; has the inputs.
        linear: writes matrices.
    """

    def __init__(
        self, spec: ModelSpec, layer_idx: int, weights: TrunkWeights, graph: Graph, linear: LinearWriter
    ) -> None:  # fmt: skip
        self._spec, self._layer_idx, self._weights = spec, layer_idx, weights
        self._g, self._linear = graph, linear

    def emit(self) -> None:
        """Write everything between inputs and outputs."""
        spec, g, i = self._spec, self._g, self._layer_idx
        layer, outputs, new = spec.layers[i], layer_signature(spec, i).outputs, dict[str, str]()
        to_add = self.joined()
        if layer.attention is not None:
            resid, normed = self.add_norm(to_add, f"layers.{i}.attn_norm")
            emission = Emission(
                layer.attention, spec.hidden, spec.rms_eps, f"layers.{i}.", self._weights, g, self._linear
            )
            attended, new = EMITTERS[mixer_kind(layer.attention)](emission, normed)
            to_add = (resid, self._out(i, "attn_out_norm", attended))
        if layer.sparse:
            resid = self._router(to_add)
        elif layer.dense is not None:
            resid, x = self.add_norm(to_add, f"layers.{i}.ffn_norm")
            y = mlp(self._linear, g, x, f"layers.{i}.dense", layer.dense, spec.hidden)
            resid = self._scaled(i, g.node("Add", resid, self._out(i, "ffn_out_norm", y)))
        else:
            first, second = to_add
            resid = self._scaled(i, first if second is None else g.node("Add", first, second))
        for name, value in {"resid_out": resid, **{f"new_{name}": value for name, value in new.items()}}.items():
            g.output(value, name, outputs[name])

    def joined(self) -> _Parts:
        """Return what adds up to the residual stream behind the layer before: itself, or it and what it lacks."""
        g, i = self._g, self._layer_idx - 1
        if i < 0 or not self._spec.layers[i].sparse:
            return ("resid", "moe")  # of a layer without experts moe is zero
        y = "moe"
        if self._spec.is_parallel(i):
            y = g.node("Add", self._norm(y, f"layers.{i}.experts_out_norm"), "parallel")
        y = self._out(i, "ffn_out_norm", y)
        return (self._scaled(i, g.node("Add", "resid", y)), None) if self._spec.layers[i].scaled else ("resid", y)

    def add_norm(self, parts: _Parts, name: str) -> tuple[str, str]:
        """Add up the parts of the residual stream; return it and its norm, by a weight and the bias it may have."""
        names = (name,) if self._spec.norm == "rms" else (name, f"{name}_bias")
        return self._added(parts, *(self._g.vector(each, self._weights.get(each)) for each in names))

    def _added(self, parts: _Parts, *weights: str) -> tuple[str, str]:
        (first, second), eps = parts, self._spec.rms_eps
        if second is None:
            return first, norm(self._g, first, weights, eps)
        return add_norm(self._g, first, second, weights, eps)

    def _router(self, to_add: _Parts) -> str:
        """Write x and the router's logits; return the residual stream that experts' outputs will join."""
        spec, g, p = self._spec, self._g, f"layers.{self._layer_idx}."
        outputs, scale = (
            layer_signature(spec, self._layer_idx).outputs,
            router_scale(spec, self._layer_idx, self._weights),
        )
        if scale is None:
            resid, x = self.add_norm(to_add, f"{p}ffn_norm")
            seen = x = g.output(x, "x", outputs["x"])
        else:
            resid, seen = self._added(to_add, g.vector(f"{p}router_ones", np.ones(spec.hidden, np.float32)))
            seen = g.output(seen, "router_x", outputs["router_x"])
            x = g.node("Mul", seen, g.vector(f"{p}ffn_norm", self._weights.get(f"{p}ffn_norm")))
            g.output(x, "x", outputs["x"])
        matrix = Matrix(f"{p}router", (f"{p}router",), (spec.num_experts,), spec.hidden, scale)
        g.output(self._linear.product(seen, matrix, exact=True), "router_logits", outputs["router_logits"])
        return resid

    def _out(self, layer_idx: int, name: str, x: str) -> str:
        """What the residual stream takes of a part's output."""
        normed = self._norm(x, f"layers.{layer_idx}.{name}") if self._spec.layers[layer_idx].output_norms else x
        return scaled(self._g, normed, self._spec.residual_scale)

    def _scaled(self, layer_idx: int, resid: str) -> str:
        if not self._spec.layers[layer_idx].scaled:
            return resid
        name = f"layers.{layer_idx}.layer_scale"
        return self._g.node("Mul", resid, self._g.vector(name, self._weights.get(name)))

    def _norm(self, x: str, name: str) -> str:
        return rms_norm(self._g, x, self._g.vector(name, self._weights.get(name)), self._spec.rms_eps)


def router_scale(spec: ModelSpec, layer_idx: int, weights: TrunkWeights) -> F32 | None:
    """Return the weight [D] of a router's own norm, which its matrix takes over; None where it has no such norm."""
    scale = spec.router.norm_scale
    return None if scale is None else weights.get(f"layers.{layer_idx}.router_norm") * np.float32(scale)
