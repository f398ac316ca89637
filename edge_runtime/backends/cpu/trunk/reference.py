"""The trunk in plain numpy: slow, obvious, the oracle the fast engines are tested against.

Weights are read from their source whenever they are needed and not kept, so that the exporter can run a checkpoint
larger than the memory: one matrix is held at a time, of the head a few rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cpu.activation import activate, sigmoid
from edge_runtime.backends.cpu.trunk.embedding import check_tokens
from edge_runtime.backends.cpu.trunk.kv_cache import HostKVCache
from edge_runtime.backends.cpu.trunk.mask import fill_mask
from edge_runtime.backends.cpu.trunk.rope import Rotary
from edge_runtime.backends.cpu.trunk.supported import rope_of
from edge_runtime.backends.cpu.trunk.weights import TrunkWeights
from edge_runtime.backends.trunk import KVCache, LayerOutput, TrunkChunk
from edge_runtime.base.errors import RequestError
from edge_runtime.base.spec import MlpSpec, ModelSpec

F32 = NDArray[np.float32]
_HEAD_ROWS = 8192


class _Chunk(TrunkChunk):
    """A chunk in progress: its residual stream and rotary tables."""

    def __init__(self, kv: HostKVCache, resid: F32, cos_sin: tuple[F32, F32]) -> None:
        super().__init__(len(resid))
        self.kv, self.resid, self.x = kv, resid, resid
        self.cos, self.sin = cos_sin


class ReferenceTrunk:
    """`Trunk` over a source of float32 weights; tensors are float32 arrays."""

    def __init__(self, spec: ModelSpec, weights: TrunkWeights, *, max_chunk: int = 512) -> None:
        """Take the model and its weights."""
        self._spec = spec
        self._weights = weights
        self._max_chunk = max_chunk
        self._rotary = Rotary(rope_of(spec), spec.max_context)

    @property
    def weight_bytes(self) -> int:
        """Return 0: no weight is kept."""
        return 0

    def new_kv_cache(self, context: int) -> HostKVCache:
        """Allocate keys and values for `context` tokens."""
        s = self._spec
        return HostKVCache(s.num_layers, s.attention.num_kv_heads, s.attention.head_dim, context)

    def begin(self, token_ids: NDArray[np.int32], kv: KVCache) -> TrunkChunk:
        """Start a chunk. See `Trunk.begin`."""
        assert isinstance(kv, HostKVCache)
        tokens = len(token_ids)
        if not 1 <= tokens <= self._max_chunk:
            raise RequestError(f"chunk: expected 1 to {self._max_chunk} tokens at a time, got {tokens}")
        check_tokens(token_ids, self._spec.vocab_size)
        kv.require(tokens)
        resid = np.concatenate([self._weights.rows("embed", t, t + 1) for t in token_ids.tolist()])
        return _Chunk(kv, resid * np.float32(self._spec.embedding_scale), self._rotary.cos_sin(kv.length, tokens))

    def run_layer(self, chunk: TrunkChunk, layer_idx: int, expert_out: F32 | None) -> LayerOutput[F32] | None:
        """Run attention, and router or dense MLP. See `Trunk.run_layer`."""
        c = _running(chunk, layer_idx)
        p, layer = f"layers.{layer_idx}.", self._spec.layers[layer_idx]
        c.resid = c.resid if expert_out is None else c.resid + expert_out
        c.resid = c.resid + self._attention(layer_idx, c, self._norm(c.resid, f"{p}attn_norm"))
        x = self._norm(c.resid, f"{p}ffn_norm")
        chunk.next_layer = layer_idx + 1
        if layer.dense is not None:
            c.resid = c.resid + self._mlp(layer.dense, x, f"{p}dense")
            return None
        c.x = x
        return LayerOutput(x, self._linear(x, f"{p}router"))

    def run_shared(self, chunk: TrunkChunk, layer_idx: int) -> F32:
        """Return the shared expert's output float32 [T, D] for the x of the last `run_layer`."""
        p, x, shared = f"layers.{layer_idx}.", _running(chunk, layer_idx + 1).x, self._spec.layers[layer_idx].shared
        assert shared is not None
        y = self._mlp(shared.mlp, x, f"{p}shared")
        return y * sigmoid(self._linear(x, f"{p}shared_expert_gate")) if shared.gate else y

    def head(self, chunk: TrunkChunk, expert_out: F32 | None, rows: slice) -> F32:
        """Return logits float32 [rows, V] of the chunk's chosen rows."""
        resid = _running(chunk, self._spec.num_layers).resid
        resid = resid if expert_out is None else resid + expert_out
        x = self._norm(resid[rows], "final_norm")
        logits = np.empty((len(x), self._spec.vocab_size), np.float32)
        for start in range(0, self._spec.vocab_size, _HEAD_ROWS):
            stop = min(start + _HEAD_ROWS, self._spec.vocab_size)
            logits[:, start:stop] = x @ self._weights.rows("head", start, stop).T
        cap = self._spec.logit_softcap
        return logits if cap is None else np.float32(cap) * np.tanh(logits / np.float32(cap))

    def look_ahead(self, x: F32, layer_idx: int, depth: int) -> F32:
        """Apply the routers of the next sparse layers to float32 [T, D]. See `Trunk.look_ahead`."""
        coming = [layer for layer in self._spec.sparse_layers if layer > layer_idx][:depth]
        rows = [self._linear(x, f"layers.{layer}.router") for layer in coming]
        return np.stack(rows) if rows else np.empty((0, 1, self._spec.num_experts), np.float32)

    def commit(self, chunk: TrunkChunk) -> None:
        """Make the chunk's keys and values part of the cache."""
        _running(chunk, self._spec.num_layers).kv.advance(chunk.tokens)
        chunk.next_layer = None

    def close(self) -> None:
        """Nothing is held."""

    def _attention(self, layer_idx: int, chunk: _Chunk, x: F32) -> F32:
        s, p, kv = self._spec.attention, f"layers.{layer_idx}.", chunk.kv
        q, k, v = self._project(p, x)
        q, k = self._rotate(q, chunk), self._rotate(k, chunk)
        kv.write(layer_idx, k[None], v[None])
        past_k, past_v = (past[0, :, : kv.length] for past in kv.past(layer_idx))
        keys, values = np.concatenate((past_k, k), 1), np.concatenate((past_v, v), 1)
        mask = np.empty((len(x), keys.shape[1]), np.float32)
        fill_mask(mask, kv.length, self._spec.layers[layer_idx].window)
        group = s.num_heads // s.num_kv_heads
        scores = q @ np.repeat(keys, group, 0).transpose(0, 2, 1) * np.float32(s.score_scale) + mask
        if s.sinks:
            sinks = self._weights.get(f"{p}sinks")[:, None, None]
            scores = np.concatenate((scores, np.broadcast_to(sinks, (*scores.shape[:2], 1))), -1)
        probs = np.exp(scores - scores.max(-1, keepdims=True))
        probs = (probs / probs.sum(-1, keepdims=True))[..., : keys.shape[1]]
        out = probs @ np.repeat(values, group, 0)
        out = self._linear(out.transpose(1, 0, 2).reshape(len(x), -1), f"{p}o")
        return out + self._weights.get(f"{p}o_bias") if s.o_bias else out

    def _project(self, p: str, x: F32) -> tuple[F32, F32, F32]:
        """Return q [H, T, C], k and v [G, T, C] before rotation."""
        s = self._spec.attention
        flat = {name: self._linear(x, p + name) for name in "qkv"}
        if s.qkv_bias:
            flat = {name: part + self._weights.get(f"{p}{name}_bias") for name, part in flat.items()}
        if s.qk_norm == "full":
            flat |= {name: self._norm(flat[name], f"{p}{name}_norm") for name in "qk"}
        if s.clip_qkv is not None:
            flat = {name: np.clip(part, -s.clip_qkv, s.clip_qkv) for name, part in flat.items()}
        heads = {name: part.reshape(len(x), -1, s.head_dim).transpose(1, 0, 2) for name, part in flat.items()}
        if s.qk_norm == "per_head":
            heads |= {name: self._norm(heads[name], f"{p}{name}_norm") for name in "qk"}
        return heads["q"], heads["k"], heads["v"]

    def _rotate(self, x: F32, chunk: _Chunk) -> F32:
        half = rope_of(self._spec).dim // 2
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return np.concatenate((a * chunk.cos - b * chunk.sin, b * chunk.cos + a * chunk.sin, rest), -1)

    def _norm(self, x: F32, name: str) -> F32:
        mean = np.mean(x * x, axis=-1, keepdims=True)
        normed: F32 = x / np.sqrt(mean + np.float32(self._spec.rms_eps)) * self._weights.get(name)
        return normed

    def _linear(self, x: F32, name: str) -> F32:
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
