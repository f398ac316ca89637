"""What a layer computes on the GPU, as launches over a chunk's buffers."""

from __future__ import annotations

import math
from typing import NamedTuple

from edge_runtime.backends.cpu.trunk.buffers import rope_numbers
from edge_runtime.backends.cuda.structures import Variant, activation_number
from edge_runtime.backends.cuda.trunk.buffers import TokenBuffers
from edge_runtime.backends.cuda.trunk.kv_cache import CudaKVCache
from edge_runtime.backends.cuda.trunk.launches import DeviceMatrix, TrunkLaunches
from edge_runtime.backends.cuda.trunk.mixers import mixer_of
from edge_runtime.backends.cuda.trunk.mixers.base import OUT, Place
from edge_runtime.backends.cuda.trunk.structures import Join
from edge_runtime.backends.cuda.trunk.weights import JoinWeights, LayerWeights, MlpWeights, SharedWeights
from edge_runtime.base.spec import MlpSpec, ModelSpec


class Arrival(NamedTuple):
    """Rows of the residual stream, and what comes to them of the layer before.

    Attributes:
        first: row.
        tokens: rows.
        experts: address of the experts' output of all rows [T, D], or 0.
    """

    first: int
    tokens: int
    experts: int


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
        launches, size, eps = self._launches, (tokens, self._spec.hidden), self._spec.rms_eps
        resid, more = at.at("resid"), self.arrive(w.before, at, Arrival(0, tokens, expert_out))
        if w.attn_norm is not None:
            launches.add_norm(resid, more, w.attn_norm, at.at("normed"), size, eps)
            self._attend(layer_idx, w, at, kv, tokens)
            more = 0
        if w.ffn_norm is None:
            return
        if w.router_ones:
            launches.add_norm(resid, more, (w.router_ones, 0), at.at("router_x"), size, eps)
            more = 0
        launches.add_norm(resid, more, w.ffn_norm, at.at("x"), size, eps)
        if w.router is not None:
            seen = at.at("router_x" if w.router_ones else "x")
            launches.linear(seen, w.router, at.at("router_logits"), tokens)
        elif w.dense is not None:
            dense = self._spec.layers[layer_idx].dense
            assert dense is not None
            down = self._network(dense, w.dense, at, "x", tokens)
            self._take(at, "hidden", down, w.ffn_join, tokens)

    def arrive(self, before: JoinWeights | None, at: TokenBuffers, rows: Arrival) -> int:
        """Let the residual stream take what the experts of the layer before gave.

        Args:
            before: how; None: it is added.
            at: buffers of the chunk.
            rows: which.

        Returns:
            The address of what a norm still has to add, or 0.
        """
        offset = 4 * rows.first * self._spec.hidden
        experts = rows.experts and rows.experts + offset
        if before is None:
            return experts
        beside = at.at("parallel") + offset if before.own else 0
        self._launches.join(at.at("resid") + offset, experts, self._how(before, beside), rows.tokens)
        return 0

    def run_shared(self, layer_idx: int, w: SharedWeights, at: TokenBuffers, tokens: int) -> None:
        """Compute a shared expert's output in `y`, from `x`; or a network in parallel, which stays in `parallel`."""
        shared, launches, size = self._spec.layers[layer_idx].shared, self._launches, (tokens, self._spec.hidden)
        assert shared is not None
        if shared.parallel:
            launches.add_norm(at.at("resid"), 0, (w.norm, 0), at.at("parallel"), size, self._spec.rms_eps)
        source, out = ("parallel", "parallel") if shared.parallel else ("x", "y")
        launches.linear(at.at("hidden"), self._network(shared.mlp, w.mlp, at, source, tokens), at.at(out), tokens)
        if shared.parallel:
            launches.norm_part(at.at(out), w.out_norm, (*size, self._spec.hidden), self._spec.rms_eps)
        if w.gate is not None:
            launches.linear(at.at("x"), w.gate, at.at("gates"), tokens)
            launches.gate_rows(at.at("y"), at.at("gates"), size)

    def _attend(self, layer_idx: int, w: LayerWeights, at: TokenBuffers, kv: CudaKVCache, tokens: int) -> None:
        attention, rope = self._spec.layers[layer_idx].attention, self._ropes[layer_idx]
        assert attention is not None
        angles = (0, 0) if rope is None else (at.at(f"cos{rope}"), at.at(f"sin{rope}"))
        place = Place(self._launches, at, kv, layer_idx, tokens, self._spec.rms_eps, angles)
        mixer_of(attention).run(attention, w.mixer, place)
        self._take(at, OUT, w.mixer.o, w.attn_join, tokens)

    def _network(self, mlp: MlpSpec, w: MlpWeights, at: TokenBuffers, source: str, tokens: int) -> DeviceMatrix:
        """Compute a dense network up to its `hidden` units; returns what multiplies those."""
        variant = Variant(activation_number(mlp.activation), math.inf, 1.0, 0.0)
        self._launches.linear(at.at(source), w.up, at.at("wide"), tokens)
        self._launches.hidden(at.at("wide"), at.at("hidden"), (tokens, mlp.intermediate), mlp.gated, variant)
        return w.down

    def _take(self, at: TokenBuffers, source: str, matrix: DeviceMatrix, how: JoinWeights | None, tokens: int) -> None:
        """Let the residual stream take the product of a buffer with a matrix."""
        resid = at.at("resid")
        self._launches.linear(at.at(source), matrix, at.at("taken") if how else resid, tokens, adds=how is None)
        if how is not None:
            self._launches.join(resid, at.at("taken"), self._how(how, 0), tokens)

    def _how(self, w: JoinWeights, beside: int) -> Join:
        spec = self._spec
        return Join(w.own, beside, w.joint, w.by, spec.hidden, spec.residual_scale, spec.rms_eps)
