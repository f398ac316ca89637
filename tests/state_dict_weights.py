"""Dense weights and expert sums straight from a transformers model, for tests of the trunk without the exporter."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from families import FAMILY_CASES, family_of, make_model
from specs import layer, model_spec

from edge_runtime.backends.cpu.trunk.kv_cache import HostKVCache
from edge_runtime.backends.trunk import Trunk
from edge_runtime.base.arrays import F32, I32
from edge_runtime.base.spec import ModelSpec, RopeSpec

ExpertsFunction = Callable[[int, F32, F32], F32]

# cases of the families whose configuration and names `_spec` and `_LAYER_NAMES` know
STATE_DICT_CASES = [case for case in FAMILY_CASES if family_of(case) in ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe")]

_LAYER_NAMES = {
    "attn_norm": "input_layernorm.weight", "ffn_norm": "post_attention_layernorm.weight", "router": "mlp.gate.weight",
    "shared_expert_gate": "mlp.shared_expert_gate.weight", "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    **{name: f"self_attn.{name}_proj.weight" for name in "qkvo"},
    **{f"{name}_bias": f"self_attn.{name}_proj.bias" for name in "qkvo"},
    **{f"shared_{m}_proj": f"mlp.shared_expert.{m}_proj.weight" for m in ("gate", "up", "down")},
    **{f"dense_{m}_proj": f"mlp.{m}_proj.weight" for m in ("gate", "up", "down")},
}  # fmt: skip


class StateDictWeights:
    """TrunkWeights over arrays by transformers' in-memory names."""

    def __init__(self, state: dict[str, F32]) -> None:
        self.state = state

    def get(self, name: str) -> F32:
        return self.state[self._source(name)]

    def rows(self, name: str, start: int, stop: int) -> F32:
        return self.get(name)[start:stop]

    def _source(self, name: str) -> str:
        if name.startswith("layers."):
            _, layer, rest = name.split(".")
            return f"model.layers.{layer}.{_LAYER_NAMES[rest]}"
        top = {"embed": "model.embed_tokens.weight", "final_norm": "model.norm.weight", "head": "lm_head.weight"}[name]
        return top if top in self.state else "model.embed_tokens.weight"


@dataclass(frozen=True)
class TrunkCase:
    """A random model of a family, as transformers runs it and as the trunk sees it."""

    model: Any
    spec: ModelSpec
    weights: StateDictWeights

    def experts(self, layer_idx: int, x: F32, router_logits: F32) -> F32:
        """Return the routed experts' sum float32 [T, D], straight from the definition."""
        s, state = self.spec, self.weights.state
        gate_up = state[f"model.layers.{layer_idx}.mlp.experts.gate_up_proj"]
        down = state[f"model.layers.{layer_idx}.mlp.experts.down_proj"]
        probs = np.exp(router_logits - router_logits.max(-1, keepdims=True))
        probs /= probs.sum(-1, keepdims=True)
        y = np.zeros_like(x)
        for t, row in enumerate(probs):
            chosen = np.argsort(-row, kind="stable")[: s.top_k]
            scale = row[chosen].sum() if s.router.normalise else 1.0
            for e in chosen:
                gate, up = np.split(gate_up[e] @ x[t], 2)
                y[t] += row[e] / scale * (down[e] @ (gate / (1 + np.exp(-gate)) * up))
        return y

    def hf_logits(self, tokens: I32, chunks: Sequence[int]) -> F32:
        """Return transformers' logits float32 [T, V] of a sequence fed to its cache in chunks of the given lengths."""
        import torch

        # the argument's name changed in 5.3x; what comes back kept its own
        name = "cache" if "cache" in inspect.signature(self.model.forward).parameters else "past_key_values"
        cache, logits, start = None, [], 0
        for length in chunks:
            ids = torch.from_numpy(tokens[start : start + length].astype(np.int64))[None]
            with torch.no_grad():
                out = self.model(ids, **{name: cache}, use_cache=True)
            cache, start = out.past_key_values, start + length
            logits.append(out.logits[0].numpy())
        return np.concatenate(logits)


def trunk_case(case: str) -> TrunkCase:
    """Return a family case with weights that bfloat16 can hold exactly."""
    import torch

    model = make_model(case)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(tensor.to(torch.bfloat16).float())
    state = {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}
    return TrunkCase(model, _spec(model.config, state), StateDictWeights(state))


def synthetic_experts(layer_idx: int, x: F32, router_logits: F32) -> F32:
    """A smooth stand-in for experts: unlike routing it cannot flip on rounding noise."""
    return np.tanh(x * np.float32(0.3 + 0.1 * layer_idx)) + np.float32(0.01) * router_logits.mean(-1, keepdims=True)


def run_chunk(trunk: Trunk, spec: ModelSpec, kv: HostKVCache, tokens: I32, experts_of: ExpertsFunction) -> F32:
    """Run a whole chunk and return the logits of all its tokens."""
    chunk = trunk.begin(tokens, kv)
    expert_out = None
    for i, one in enumerate(spec.layers):
        out = trunk.run_layer(chunk, i, expert_out)
        expert_out = None
        if out is not None:
            expert_out = experts_of(i, out.x, out.router_logits)
            if one.shared is not None:
                expert_out = expert_out + trunk.run_shared(chunk, i)
    logits = trunk.head(chunk, expert_out, slice(None))
    trunk.commit(chunk)
    return logits


def relative_error(got: F32, expected: F32) -> float:
    """Root mean square of the difference over that of the expected values."""
    return float(np.sqrt(np.mean((got - expected) ** 2) / np.mean(expected**2)))


def _spec(config: Any, state: dict[str, F32]) -> ModelSpec:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = {k: v for k, v in config.rope_parameters.items() if v is not None}
    kind, theta = rope.pop("rope_type"), rope.pop("rope_theta")
    full, prefix = config.model_type == "olmoe", "model.layers.0.self_attn"
    per_head = f"{prefix}.q_norm.weight" in state and not full
    return model_spec(
        *(_layer(config, i, state) for i in range(config.num_hidden_layers)),
        family=config.model_type, vocab_size=config.vocab_size, hidden=config.hidden_size,
        num_heads=config.num_attention_heads, num_kv_heads=config.num_key_value_heads, head_dim=head_dim,
        rms_eps=config.rms_norm_eps, max_context=config.max_position_embeddings,
        rope=RopeSpec(kind, theta, head_dim, rope),
        num_experts=config.num_experts, top_k=config.num_experts_per_tok,
        intermediate=getattr(config, "moe_intermediate_size", None) or config.intermediate_size,
        normalise=getattr(config, "norm_topk_prob", True),
        qk_norm="full" if full else "per_head" if per_head else "none",
        qkv_bias=f"{prefix}.q_proj.bias" in state, o_bias=f"{prefix}.o_proj.bias" in state,
        clip_qkv=getattr(config, "clip_qkv", None), shared_gate=config.model_type == "qwen2_moe",
        tied_embeddings=config.tie_word_embeddings, eos_token_ids=[config.eos_token_id],
    )  # fmt: skip


def _layer(config: Any, i: int, state: dict[str, F32]) -> dict[str, int | None]:
    sparse = f"model.layers.{i}.mlp.gate.weight" in state
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None) or None
    if kinds is not None and kinds[i] != "sliding_attention":
        window = None
    shared = config.shared_expert_intermediate_size if config.model_type == "qwen2_moe" and sparse else None
    return layer(window=window, dense=None if sparse else config.intermediate_size, shared=shared)


def logits_in_chunks(trunk: Trunk, spec: ModelSpec, chunks: Sequence[int]) -> F32:
    """Run random tokens, always the same ones, in chunks of these lengths; return all logits and close the trunk."""
    tokens = np.random.default_rng(1).integers(0, spec.vocab_size, sum(chunks)).astype(np.int32)
    kv, start, rows = trunk.new_kv_cache(300), 0, []
    for length in chunks:
        rows.append(run_chunk(trunk, spec, kv, tokens[start : start + length], synthetic_experts))
        start += length
    trunk.close()
    return np.concatenate(rows)
