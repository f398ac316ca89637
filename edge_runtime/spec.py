"""ModelSpec: what a MoE decoder is, in this project's own words, independent of any checkpoint's names.

Shape letters used in docstrings everywhere: T tokens, D hidden, I expert intermediate, E experts, K top-k, L layers,
H attention heads, G key/value heads, C head dim, N context, V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from edge_runtime.strict import from_mapping

QkNorm = Literal["none", "per_head", "full"]
RopeKind = Literal["default", "linear", "dynamic", "yarn", "llama3"]


@dataclass(frozen=True)
class RopeSpec:
    """Rotary position embedding.

    `params` holds the kind's own numbers under transformers' names (factor, original_max_position_embeddings,
    beta_fast, low_freq_factor, ...).
    """

    kind: RopeKind
    theta: float
    dim: int
    params: dict[str, float | bool] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerSpec:
    """One decoder layer: `sparse` ones route to experts, others hold a SwiGLU of `dense_intermediate`."""

    sparse: bool
    sliding_window: int | None = None
    dense_intermediate: int | None = None
    shared_intermediate: int | None = None


@dataclass(frozen=True)
class ModelSpec:
    """Everything the runtime must know about a model besides its weights."""

    family: str
    vocab_size: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_eps: float
    max_context: int
    rope: RopeSpec
    layers: list[LayerSpec]
    num_experts: int
    top_k: int
    expert_intermediate: int
    norm_topk_prob: bool
    qk_norm: QkNorm = "none"
    qkv_bias: bool = False
    o_bias: bool = False
    clip_qkv: float | None = None
    shared_expert_gate: bool = False
    tied_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_ids: list[int] = field(default_factory=list)

    @property
    def num_layers(self) -> int:
        """Number of decoder layers, sparse and dense."""
        return len(self.layers)

    @property
    def sparse_layers(self) -> list[int]:
        """Indices of the layers that route to experts."""
        return [i for i, layer in enumerate(self.layers) if layer.sparse]

    @property
    def context_limit(self) -> int:
        """Tokens the model can attend to: its trained context, or what its rope scaling stretches that to."""
        factor = self.rope.params.get("factor", 1.0)
        original = self.rope.params.get("original_max_position_embeddings", self.max_context)
        stretched = 1 if self.rope.kind == "default" else int(original * factor)
        return max(self.max_context, stretched)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for the manifest."""
        return asdict(self)

    @staticmethod
    def from_json(data: Any, where: str = "model") -> ModelSpec:
        """Build a spec from untrusted plain data.

        Raises:
            ValueError: a key is unknown, missing, of the wrong type, or a size is out of range.
        """
        spec = from_mapping(ModelSpec, data, where)
        check_spec(spec, where)
        return spec


def check_spec(spec: ModelSpec, where: str = "model") -> None:
    """Refuse sizes no decoder can have, before anything is allocated from them.

    Raises:
        ValueError: names the field, what was expected and what was found.
    """

    def need(ok: bool, name: str, expected: str, got: object) -> None:
        if not ok:
            raise ValueError(f"{where}.{name}: expected {expected}, got {got!r}")

    limits = {
        "vocab_size": 1 << 22, "hidden": 1 << 16, "num_heads": 1 << 10, "num_kv_heads": 1 << 10, "head_dim": 1 << 12,
        "max_context": 1 << 25, "num_experts": 1 << 14, "top_k": 1 << 10, "expert_intermediate": 1 << 18,
    }  # fmt: skip
    for name, limit in limits.items():
        value = getattr(spec, name)
        need(1 <= value <= limit, name, f"1 to {limit}", value)
    need(1 <= len(spec.layers) <= 1024, "layers", "1 to 1024 layers", len(spec.layers))
    need(bool(spec.sparse_layers), "layers", "at least one sparse layer", "none")
    need(spec.top_k <= spec.num_experts, "top_k", f"at most num_experts = {spec.num_experts}", spec.top_k)
    need(spec.num_heads % spec.num_kv_heads == 0, "num_kv_heads", f"a divisor of {spec.num_heads}", spec.num_kv_heads)
    need(spec.hidden % 32 == 0, "hidden", "a multiple of 32", spec.hidden)
    need(spec.expert_intermediate % 32 == 0, "expert_intermediate", "a multiple of 32", spec.expert_intermediate)
    need(0 < spec.rms_eps < 1, "rms_eps", "between 0 and 1", spec.rms_eps)
    need(spec.rope.theta > 0, "rope.theta", "above 0", spec.rope.theta)
    need(
        spec.rope.dim % 2 == 0 and 0 < spec.rope.dim <= spec.head_dim,
        "rope.dim",
        "even, at most head_dim",
        spec.rope.dim,
    )
    need(spec.clip_qkv is None or spec.clip_qkv > 0, "clip_qkv", "above 0", spec.clip_qkv)
    for i, layer in enumerate(spec.layers):
        need(layer.sparse or bool(layer.dense_intermediate), f"layers[{i}]", "sparse or dense_intermediate", layer)
        for name in ("sliding_window", "dense_intermediate", "shared_intermediate"):
            value = getattr(layer, name)
            need(value is None or 1 <= value <= 1 << 25, f"layers[{i}].{name}", "above 0", value)
    for token in [*spec.eos_token_ids, *([] if spec.bos_token_id is None else [spec.bos_token_id])]:
        need(0 <= token < spec.vocab_size, "eos/bos token", f"below vocab_size = {spec.vocab_size}", token)
