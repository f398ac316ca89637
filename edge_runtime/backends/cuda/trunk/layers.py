"""What a layer computes on the GPU, as launches over a chunk's buffers."""

from __future__ import annotations

import math

from edge_runtime.backends.cpu.trunk.buffers import rope_numbers
from edge_runtime.backends.cuda.structures import Variant, activation_number
from edge_runtime.backends.cuda.trunk.buffers import POSITION, TokenBuffers
from edge_runtime.backends.cuda.trunk.kv_cache import CudaKVCache
from edge_runtime.backends.cuda.trunk.launches import AttentionAt, TrunkLaunches
from edge_runtime.backends.cuda.trunk.structures import make_attend, make_heads
from edge_runtime.backends.cuda.trunk.weights import LayerWeights, MlpWeights, SharedWeights
from edge_runtime.base.spec import MlpSpec, ModelSpec, SoftmaxAttention


class LayerRunner:
    """Queues layers of one model.

    Args:
        spec: the model.
        launches: on the stream of everything else.
    """

    def __init__(self, spec: ModelSpec, launches: TrunkLaunches) -> None:
        self._spec, self._launches, self._ropes = spec, launches, rope_numbers(spec)

    def run(
        self, layer_idx: int, w: LayerWeights, at: TokenBuffers, kv: CudaKVCache, tokens: int, expert_out: int
    ) -> None:
        """Run attention, and router or dense network, over the residual stream in `at`.

        Args:
            layer_idx: the layer.
            w: its weights.
            at: buffers of the chunk; `resid` changes in place, a sparse layer leaves `x` and `router_logits`.
            kv: the chunk's cache.
            tokens: T.
            expert_out: address of the experts' output of the layer before [T, D], or 0.
        """
        spec, launches = self._spec, self._launches
        layer, size = spec.layers[layer_idx], (tokens, spec.hidden)
        resid, normed, x = at.at("resid"), at.at("normed"), at.at("x")
        launches.add_norm(resid, expert_out, w.attn_norm, normed, size, spec.rms_eps)
        assert isinstance(layer.attention, SoftmaxAttention)
        self._attend(layer_idx, layer.attention, w, at, kv, tokens)
        launches.linear(at.at("attended"), w.o, resid, tokens, adds=True)
        launches.add_norm(resid, 0, w.ffn_norm, x, size, spec.rms_eps)
        if w.router is not None:
            launches.linear(x, w.router, at.at("router_logits"), tokens)
        elif w.dense is not None:
            assert layer.dense is not None
            self._network(layer.dense, w.dense, at, resid, tokens, adds=True)

    def run_shared(self, layer_idx: int, w: SharedWeights, at: TokenBuffers, tokens: int) -> None:
        """Compute a shared expert's output in `y`, from `x`."""
        shared = self._spec.layers[layer_idx].shared
        assert shared is not None
        self._network(shared.mlp, w.mlp, at, at.at("y"), tokens, adds=False)
        if w.gate is not None:
            self._launches.linear(at.at("x"), w.gate, at.at("gates"), tokens)
            self._launches.gate_rows(at.at("y"), at.at("gates"), (tokens, self._spec.hidden))

    def _attend(
        self, layer_idx: int, s: SoftmaxAttention, w: LayerWeights, at: TokenBuffers, kv: CudaKVCache, tokens: int
    ) -> None:
        launches, eps, qkv = self._launches, self._spec.rms_eps, at.at("qkv")
        launches.linear(at.at("normed"), w.qkv, qkv, tokens)
        q, k = s.num_heads * s.head_dim, s.num_kv_heads * s.head_dim
        if s.qk_norm == "full":
            launches.norm_part(qkv, w.full_norms[0], (tokens, q, q + 2 * k), eps)
            launches.norm_part(qkv + 4 * q, w.full_norms[1], (tokens, k, q + 2 * k), eps)
        rope, (keys, values) = self._ropes[layer_idx], kv.of_layer(layer_idx)
        angles = at.at(f"cos{rope}"), at.at(f"sin{rope}")
        where = AttentionAt(qkv, w.head_norms, *angles, at.at(POSITION), keys, values, w.sinks, at.at("attended"))
        launches.attention(where, make_heads(s, kv.context, eps), make_attend(s, kv.context), tokens)

    def _network(self, mlp: MlpSpec, w: MlpWeights, at: TokenBuffers, out: int, tokens: int, *, adds: bool) -> None:
        variant = Variant(activation_number(mlp.activation), math.inf, 1.0, 0.0)
        self._launches.linear(at.at("x"), w.up, at.at("wide"), tokens)
        self._launches.hidden(at.at("wide"), at.at("hidden"), (tokens, mlp.intermediate), mlp.gated, variant)
        self._launches.linear(at.at("hidden"), w.down, out, tokens, adds=adds)
