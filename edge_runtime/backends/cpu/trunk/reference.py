"""The trunk in plain numpy: slow, obvious, the oracle the fast engines are tested against.

Weights are read from their source whenever they are needed and not kept, so that the exporter can run a checkpoint
larger than the memory: one matrix is held at a time, of the head a few rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edge_runtime.backends.chunks import LayerOutput, TrunkChunk
from edge_runtime.backends.cpu.activation import activate, sigmoid
from edge_runtime.backends.cpu.trunk.buffers import rope_numbers
from edge_runtime.backends.cpu.trunk.embedding import check_tokens
from edge_runtime.backends.cpu.trunk.kv_cache import HostKVCache
from edge_runtime.backends.cpu.trunk.mask import fill_mask
from edge_runtime.backends.cpu.trunk.oracles import mixer_of
from edge_runtime.backends.cpu.trunk.oracles.base import LayerRun, Watch, rms_norm
from edge_runtime.backends.cpu.trunk.recurrent import Stop
from edge_runtime.backends.cpu.trunk.rope import Rotary
from edge_runtime.backends.cpu.trunk.weight_source import TrunkWeights
from edge_runtime.backends.trunk import KVCache
from edge_runtime.base.arrays import F32, I32
from edge_runtime.base.errors import RequestError
from edge_runtime.base.spec import MlpSpec, ModelSpec, StateArray, has_mask

_HEAD_ROWS = 8192


class _Chunk(TrunkChunk):
    """A chunk in progress: its residual stream and rotary tables."""

    def __init__(self, kv: HostKVCache, resid: F32, angles: list[tuple[F32, F32]], stops: list[Stop]) -> None:
        super().__init__(len(resid))
        self.kv, self.resid, self.x = kv, resid, resid
        self.parallel = resid  # what a network in parallel with experts gave
        self.angles, self.stops = angles, stops


class ReferenceTrunk:
    """`Trunk` over a source of float32 weights; tensors are float32 arrays."""

    expected_states = chunk_cuts = None
    build = ""

    def __init__(
        self, spec: ModelSpec, weights: TrunkWeights, *, max_chunk: int = 512, watch: Watch | None = None
    ) -> None:
        """Take the model and its weights; `watch` is told the inputs [T, K] of every matrix by its name."""
        self._watch = watch
        self._spec = spec
        self._weights = weights
        self._max_chunk = max_chunk
        self._rotary, self._ropes = [Rotary(rope, spec.max_context) for rope in spec.ropes], rope_numbers(spec)

    @property
    def weight_bytes(self) -> int:
        """Return 0: no weight is kept."""
        return 0

    def new_kv_cache(self, context: int) -> HostKVCache:
        """Allocate what layers keep of `context` tokens."""
        return HostKVCache.of(self._spec, context)

    def begin(self, token_ids: I32, kv: KVCache) -> TrunkChunk:
        """Start a chunk. See `Trunk.begin`."""
        assert isinstance(kv, HostKVCache)
        tokens = len(token_ids)
        if not 1 <= tokens <= self._max_chunk:
            raise RequestError(f"chunk: expected 1 to {self._max_chunk} tokens at a time, got {tokens}")
        check_tokens(token_ids, self._spec.vocab_size)
        stops = kv.begin(tokens, snapshots=False)
        resid = np.concatenate([self._weights.rows("embed", t, t + 1) for t in token_ids.tolist()])
        resid = resid * np.float32(self._spec.embedding_scale)
        angles = [rotary.cos_sin(kv.length, tokens, kv.context) for rotary in self._rotary]
        return _Chunk(kv, resid, angles, stops)

    def resume(self, resid: F32, parallel: F32, layer_idx: int, kv: KVCache) -> TrunkChunk:
        """Start a chunk in the middle of the model, from what `carried` said before a layer."""
        assert isinstance(kv, HostKVCache)
        stops = kv.begin(len(resid), snapshots=False)
        angles = [rotary.cos_sin(kv.length, len(resid), kv.context) for rotary in self._rotary]
        chunk = _Chunk(kv, resid, angles, stops)
        chunk.parallel, chunk.next_layer = parallel, layer_idx
        return chunk

    def carried(self, chunk: TrunkChunk) -> tuple[F32, F32]:
        """Return the residual stream [T, D] behind the last `run_layer`, and what a network in parallel gave."""
        assert isinstance(chunk, _Chunk)
        return chunk.resid, chunk.parallel

    def run_layer(self, chunk: TrunkChunk, layer_idx: int, expert_out: F32 | None) -> LayerOutput[F32] | None:
        """Run attention, and router or dense MLP. See `Trunk.run_layer`."""
        c = _running(chunk, layer_idx)
        p, layer = f"layers.{layer_idx}.", self._spec.layers[layer_idx]
        c.resid = self._behind(c, layer_idx - 1, expert_out)
        if layer.attention is not None:
            attended = self._attention(layer_idx, c, self._stream_norm(c.resid, f"{p}attn_norm"))
            c.resid = c.resid + self._out(layer_idx, "attn_out_norm", attended)
        chunk.next_layer = layer_idx + 1
        if not layer.has_feed_forward:
            c.resid = self._scaled(layer_idx, c.resid)
            return None
        x = self._stream_norm(c.resid, f"{p}ffn_norm")
        if layer.dense is not None:
            y = self._mlp(layer.dense, x, f"{p}dense")
            c.resid = self._scaled(layer_idx, c.resid + self._out(layer_idx, "ffn_out_norm", y))
            return None
        c.x = x
        if self._spec.router.norm_scale is None:
            return LayerOutput(x, self._linear(x, f"{p}router"))
        seen = rms_norm(c.resid, np.float32(1), self._spec.rms_eps)
        return LayerOutput(x, self._router(seen, layer_idx), seen)

    def run_shared(self, chunk: TrunkChunk, layer_idx: int) -> F32 | None:
        """Run the shared expert, or the network in parallel, of the last `run_layer`. See `Trunk.run_shared`."""
        c, p, shared = _running(chunk, layer_idx + 1), f"layers.{layer_idx}.", self._spec.layers[layer_idx].shared
        assert shared is not None
        if shared.parallel:
            y = self._mlp(shared.mlp, self._norm(c.resid, f"{p}shared_norm"), f"{p}shared")
            c.parallel = self._norm(y, f"{p}shared_out_norm")
            return None
        x, y = c.x, self._mlp(shared.mlp, c.x, f"{p}shared")
        return y * sigmoid(self._linear(x, f"{p}shared_expert_gate")) if shared.gate else y

    def head(self, chunk: TrunkChunk, expert_out: F32 | None, rows: slice) -> F32:
        """Return logits float32 [rows, V] of the chunk's chosen rows."""
        x = self.last(chunk, expert_out, rows)
        logits = np.empty((len(x), self._spec.vocab_size), np.float32)
        for start in range(0, self._spec.vocab_size, _HEAD_ROWS):
            stop = min(start + _HEAD_ROWS, self._spec.vocab_size)
            logits[:, start:stop] = x @ self._weights.rows("head", start, stop).T
        if self._spec.head_bias:
            logits += self._weights.get("head_bias")
        logits *= np.float32(self._spec.logit_scale)
        cap = self._spec.logit_softcap
        return logits if cap is None else np.float32(cap) * np.tanh(logits / np.float32(cap))

    def last(self, chunk: TrunkChunk, expert_out: F32 | None, rows: slice) -> F32:
        """Return what the head gets of the chunk's chosen rows, float32 [rows, D]."""
        resid = self._behind(_running(chunk, self._spec.num_layers), self._spec.num_layers - 1, expert_out)
        return self._stream_norm(resid[rows], "final_norm")

    def token_compute(self, kernels: object) -> None:
        """See `Trunk.token_compute`: Python calls it."""

    def look_ahead(self, x: F32, layer_idx: int, depth: int) -> F32:
        """Apply the routers of the next sparse layers to float32 [T, D]. See `Trunk.look_ahead`."""
        coming = [layer for layer in self._spec.sparse_layers if layer > layer_idx][:depth]
        rows = [self._router(x, layer) for layer in coming]
        return np.stack(rows) if rows else np.empty((0, 1, self._spec.num_experts), np.float32)

    def commit(self, chunk: TrunkChunk) -> None:
        """Make the chunk's keys and values part of the cache."""
        _running(chunk, self._spec.num_layers).kv.advance(chunk.tokens)
        chunk.next_layer = None

    def close(self) -> None:
        """Nothing is held."""

    def _behind(self, c: _Chunk, layer_idx: int, expert_out: F32 | None) -> F32:
        """The residual stream behind a layer: what its experts gave joins it."""
        if layer_idx < 0 or not self._spec.layers[layer_idx].sparse:
            return c.resid
        p, y = f"layers.{layer_idx}.", np.zeros_like(c.resid) if expert_out is None else expert_out
        if self._spec.is_parallel(layer_idx):
            y = self._norm(y, f"{p}experts_out_norm") + c.parallel
        return self._scaled(layer_idx, c.resid + self._out(layer_idx, "ffn_out_norm", y))

    def _out(self, layer_idx: int, name: str, y: F32) -> F32:
        """What the residual stream takes of a part's output."""
        taken: F32 = self._norm(y, f"layers.{layer_idx}.{name}") if self._spec.layers[layer_idx].output_norms else y
        taken = np.float32(self._spec.residual_scale) * taken
        return taken

    def _scaled(self, layer_idx: int, resid: F32) -> F32:
        scaled = self._spec.layers[layer_idx].scaled
        return resid * self._weights.get(f"layers.{layer_idx}.layer_scale") if scaled else resid

    def _router(self, seen: F32, layer_idx: int) -> F32:
        """Logits of a layer's router; a norm of its own has its weight applied here."""
        scale, p = self._spec.router.norm_scale, f"layers.{layer_idx}."
        if scale is not None:
            seen = seen * (self._weights.get(f"{p}router_norm") * np.float32(scale))
        return self._linear(seen, f"{p}router")

    def _attention(self, layer_idx: int, chunk: _Chunk, x: F32) -> F32:
        attention, kv, rope = self._spec.layers[layer_idx].attention, chunk.kv, self._ropes[layer_idx]
        assert attention is not None
        mask = None
        if has_mask(attention):
            mask = np.empty((len(x), kv.length + len(x)), np.float32)
            fill_mask(mask, kv.length, self._spec.layers[layer_idx].window)
        angles = None if rope is None else chunk.angles[rope]
        past = {array.name: past[0, :, : kv.length] for array, past in self._growing(layer_idx, kv)}
        past |= {array.name: past for array, past in self._fixed(layer_idx, kv, kv.fixed.current)}
        prefix, eps = f"layers.{layer_idx}.", self._spec.rms_eps
        run = LayerRun(attention, prefix, self._weights, eps, angles, mask, past, self._watch)
        out, new = mixer_of(attention).run(run, x)
        kv.write(layer_idx, [new[array.name][None] for array, _ in self._growing(layer_idx, kv)])
        for stop in chunk.stops:
            for array, target in self._fixed(layer_idx, kv, stop.slot):
                target[...] = new[array.name]
        return out

    def _growing(self, layer_idx: int, kv: HostKVCache) -> Iterator[tuple[StateArray, F32]]:
        arrays = [array for array in self._spec.state_of(layer_idx) if array.grows]
        return zip(arrays, kv.past(layer_idx), strict=True)

    def _fixed(self, layer_idx: int, kv: HostKVCache, slot: int) -> Iterator[tuple[StateArray, F32]]:
        arrays = [array for array in self._spec.state_of(layer_idx) if not array.grows]
        return zip(arrays, (array[0] for array in kv.fixed.of(layer_idx, slot)), strict=False)

    def _stream_norm(self, x: F32, name: str) -> F32:
        """Norm the residual stream as the model does."""
        if self._spec.norm == "rms":
            return self._norm(x, name)
        centred = x - np.mean(x, axis=-1, keepdims=True)
        return self._norm(centred, name) + self._weights.get(f"{name}_bias")

    def _norm(self, x: F32, name: str) -> F32:
        return rms_norm(x, self._weights.get(name), self._spec.rms_eps)

    def _linear(self, x: F32, name: str) -> F32:
        if self._watch is not None:
            self._watch(name, x)
        product: F32 = x @ self._weights.get(name).T
        return product

    def _mlp(self, mlp: MlpSpec, x: F32, prefix: str) -> F32:
        up = self._linear(x, f"{prefix}_up_proj")
        if mlp.gated:
            hidden = activate(mlp.activation, self._linear(x, f"{prefix}_gate_proj")) * up
        else:
            hidden = activate(mlp.activation, up)
        return self._linear(hidden, f"{prefix}_down_proj")


def _running(chunk: TrunkChunk, next_layer: int) -> _Chunk:
    assert isinstance(chunk, _Chunk)
    chunk.require(next_layer)
    return chunk
