"""Reads a model's layers and head from a bundle's graphs. Tensor names are those that the exporter writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_runtime.backends.cpu.kernels import Layer
from edge_runtime.backends.cpu.trunk.native.forms import layer_form
from edge_runtime.backends.cpu.trunk.native.mixers import MixerParts, mixer_parts
from edge_runtime.backends.cpu.trunk.native.tensors import GraphTensors
from edge_runtime.backends.cpu.trunk.signature import head_signature, layer_signature, shared_signature
from edge_runtime.base.spec import MlpSpec, ModelSpec, SoftmaxAttention
from edge_runtime.bundle.part_names import trunk_file


class LayerReader:
    """Packs the weights of a model whose layers `supported.why_not` has nothing against.

    Args:
        bundle_path: directory of a bundle whose parts were checked.
        spec: the bundle's model.
        isa: instruction set to pack for.

    Attributes:
        nbytes: of what was packed so far.
    """

    def __init__(self, bundle_path: Path, spec: ModelSpec, isa: str) -> None:
        self._path, self._spec, self._isa = bundle_path, spec, isa
        self.nbytes = 0

    def read(self) -> list[Layer]:
        """Return all layers, and the head behind them.

        Raises:
            BundleError: a graph is not of the exporter's kind.
        """
        return [*(self._layer(i) for i in range(self._spec.num_layers)), self._head()]

    def _layer(self, i: int) -> Layer:
        spec, layer = self._spec, Layer(layer_form(self._spec, i))
        one, p, d = spec.layers[i], f"layers.{i}.", spec.hidden
        t = GraphTensors(self._path, trunk_file("layer", i), layer_signature(spec, i), self._isa)
        self._put_join(layer, t, i)
        if one.attention is not None:
            self._put_norm(layer, t, "attn_norm", f"{p}attn_norm")
            if one.output_norms:
                layer.put_vector("attn_out_norm", t.vector(f"{p}attn_out_norm", d))
        if isinstance(one.attention, SoftmaxAttention):
            self._put_attention(layer, t, one.attention, p)
        elif (parts := mixer_parts(one.attention, d)) is not None:
            _put_mixer(layer, t, parts, p)
        if one.has_feed_forward:
            self._put_norm(layer, t, "ffn_norm", f"{p}ffn_norm")
        if one.sparse:
            layer.put_matrix("router", t.matrix(f"{p}router", spec.num_experts, d, exact=True))
        else:
            self._put_dense(layer, t, i)
        self._close(t)
        if one.shared is not None:
            self._put_shared(layer, i)
        return layer

    def _head(self) -> Layer:
        spec, layer = self._spec, Layer(layer_form(self._spec, self._spec.num_layers))
        t = GraphTensors(self._path, trunk_file("head"), head_signature(spec), self._isa)
        self._put_join(layer, t, spec.num_layers)
        self._put_norm(layer, t, "attn_norm", "final_norm")
        layer.put_matrix("head", t.matrix("head", spec.vocab_size, spec.hidden))
        if spec.head_bias:
            layer.put_vector("head_bias", t.vector("head_bias", spec.vocab_size))
        self._close(t)
        return layer

    def _put_join(self, layer: Layer, t: GraphTensors, i: int) -> None:
        """What the layer before has behind its experts."""
        before = self._spec.layers[i - 1] if i > 0 else None
        if before is None or not before.sparse:
            return
        p, d = f"layers.{i - 1}.", self._spec.hidden
        if self._spec.is_parallel(i - 1):
            layer.put_vector("join_experts_norm", t.vector(f"{p}experts_out_norm", d))
        if before.output_norms:
            layer.put_vector("join_out_norm", t.vector(f"{p}ffn_out_norm", d))
        if before.scaled:
            layer.put_vector("join_scale", t.vector(f"{p}layer_scale", 1))

    def _put_norm(self, layer: Layer, t: GraphTensors, name: str, stored: str) -> None:
        """A norm of the residual stream, and the bias it may have."""
        layer.put_vector(name, t.vector(stored, self._spec.hidden))
        if self._spec.norm == "layer":
            layer.put_vector(f"{name}_bias", t.vector(f"{stored}_bias", self._spec.hidden))

    def _put_attention(self, layer: Layer, t: GraphTensors, s: SoftmaxAttention, p: str) -> None:
        d, q, k = self._spec.hidden, s.num_heads * s.head_dim, s.num_kv_heads * s.head_dim
        label, rows = ("qk", q + k) if s.shared_kv else ("qkv", q + 2 * k)
        rows += q if s.output_gate else 0
        layer.put_matrix("qkv", t.matrix(f"{p}{label}", rows, d))
        if s.qkv_bias:
            stacked = label + ("q_gate" if s.output_gate else "")
            layer.put_vector("qkv_bias", t.vector(f"{p}{stacked}_bias", rows))
        if s.qk_norm == "full":
            layer.put_vector("q_norm", t.vector(f"{p}q_norm", q))
            layer.put_vector("k_norm", t.vector(f"{p}k_norm", k))
        elif s.qk_norm != "none":
            layer.put_vector("head_norms", t.vector(f"{p}qk_norm", q + k))
        if s.sinks:
            layer.put_vector("sinks", t.vector(f"{p}sinks", s.num_heads))
        layer.put_matrix("o", t.matrix(f"{p}o", d, q))
        if s.o_bias:
            layer.put_vector("o_bias", t.vector(f"{p}o_bias", d))

    def _put_dense(self, layer: Layer, t: GraphTensors, i: int) -> None:
        """The feed-forward part of a layer without experts, and what is behind it."""
        one, p = self._spec.layers[i], f"layers.{i}."
        if one.dense is not None:
            self._put_mlp(layer, t, ("up", "down"), f"{p}dense", one.dense)
            if one.output_norms:
                layer.put_vector("ffn_out_norm", t.vector(f"{p}ffn_out_norm", self._spec.hidden))
        if one.scaled:
            layer.put_vector("layer_scale", t.vector(f"{p}layer_scale", 1))

    def _put_shared(self, layer: Layer, i: int) -> None:
        spec, shared, p = self._spec, self._spec.layers[i].shared, f"layers.{i}."
        assert shared is not None
        t = GraphTensors(self._path, trunk_file("shared", i), shared_signature(spec, i), self._isa)
        self._put_mlp(layer, t, ("shared_up", "shared_down"), f"{p}shared", shared.mlp)
        if shared.parallel:
            layer.put_vector("shared_norm", t.vector(f"{p}shared_norm", spec.hidden))
            layer.put_vector("shared_out_norm", t.vector(f"{p}shared_out_norm", spec.hidden))
        if shared.gate:
            layer.put_vector("shared_gate", t.vector(f"{p}shared_expert_gate", spec.hidden))
        self._close(t)

    def _put_mlp(self, layer: Layer, t: GraphTensors, names: tuple[str, str], prefix: str, mlp: MlpSpec) -> None:
        d, width = self._spec.hidden, mlp.intermediate
        up, rows = ("_gate_up", 2 * width) if mlp.gated else ("_up", width)
        layer.put_matrix(names[0], t.matrix(f"{prefix}{up}", rows, d))
        layer.put_matrix(names[1], t.matrix(f"{prefix}_down", d, width))

    def _close(self, t: GraphTensors) -> None:
        self.nbytes += t.nbytes
        t.close()


def _put_mixer(layer: Layer, t: GraphTensors, parts: MixerParts, p: str) -> None:
    for part, (label, outputs, inputs) in parts.matrices.items():
        layer.put_matrix(part, t.matrix(f"{p}{label}", outputs, inputs))
    for part, (label, outputs, inputs) in parts.heads.items():
        heads = [t.matrix(f"{p}{label}_{i}", outputs, inputs) for i in range(parts.num_heads)]
        layer.put_heads(part, heads)
    for part, (names, numbers) in parts.vectors.items():
        layer.put_vector(part, np.concatenate([t.vector(f"{p}{name}", numbers) for name in names]))
