"""ModelSpec: what a MoE decoder is, in this project's own words, independent of any checkpoint's names.

Shape letters used in docstrings everywhere: T tokens, D hidden, I expert intermediate, E experts, K top-k, L layers,
H attention heads, G key/value heads, C head dim, N context, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from edge_runtime.base.strict import from_mapping

QkNorm = Literal["none", "per_head", "full"]
RopeKind = Literal["default", "linear", "dynamic", "yarn", "llama3"]
MAX_CONTEXT = 1 << 25
"""Most positions a model may claim, stretched by its rope scaling or not."""
_MAX_THETA = 1e12


@dataclass(frozen=True)
class _Range:
    low: float
    high: float
    required: bool = True
    zero: bool = False
    """Whether 0 stands for the default."""


_FACTOR, _ORIGINAL = _Range(2**-10, 2**16), _Range(1, MAX_CONTEXT)
_BETA, _MSCALE = _Range(1e-3, 1e6, required=False, zero=True), _Range(1e-3, 1e3, required=False, zero=True)
# what each kind computes with; within these ranges every frequency is finite in float32
_ROPE_PARAMS: dict[str, dict[str, _Range]] = {
    "default": {},
    "linear": {"factor": _FACTOR},
    "dynamic": {"factor": _FACTOR, "original_max_position_embeddings": replace(_ORIGINAL, required=False)},
    "yarn": {
        "factor": _FACTOR, "original_max_position_embeddings": _ORIGINAL, "beta_fast": _BETA, "beta_slow": _BETA,
        "mscale": _MSCALE, "mscale_all_dim": _MSCALE, "attention_factor": _Range(1e-3, 1e3, required=False),
    },
    "llama3": {
        "factor": _FACTOR, "original_max_position_embeddings": _ORIGINAL,
        "low_freq_factor": _Range(1e-3, 1e6), "high_freq_factor": _Range(1e-3, 1e6),
    },
}  # fmt: skip
_ROPE_SWITCHES = {"yarn": ("truncate",)}


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
        "max_context": MAX_CONTEXT, "num_experts": 1 << 14, "top_k": 1 << 10, "expert_intermediate": 1 << 18,
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
    _check_rope(spec, need)
    need(spec.clip_qkv is None or spec.clip_qkv > 0, "clip_qkv", "above 0", spec.clip_qkv)
    for i, layer in enumerate(spec.layers):
        need(layer.sparse or bool(layer.dense_intermediate), f"layers[{i}]", "sparse or dense_intermediate", layer)
        for name in ("sliding_window", "dense_intermediate", "shared_intermediate"):
            value = getattr(layer, name)
            need(value is None or 1 <= value <= 1 << 25, f"layers[{i}].{name}", "above 0", value)
    for token in [*spec.eos_token_ids, *([] if spec.bos_token_id is None else [spec.bos_token_id])]:
        need(0 <= token < spec.vocab_size, "eos/bos token", f"below vocab_size = {spec.vocab_size}", token)


def _check_rope(spec: ModelSpec, need: Callable[[bool, str, str, object], None]) -> None:
    """Refuse rotary parameters that are missing, unknown to the kind, or beyond what float32 can compute with."""
    rope, known, switches = spec.rope, _ROPE_PARAMS[spec.rope.kind], _ROPE_SWITCHES.get(spec.rope.kind, ())
    need(1 < rope.theta <= _MAX_THETA, "rope.theta", f"above 1, at most {_MAX_THETA:g}", rope.theta)
    need(rope.dim % 2 == 0 and 0 < rope.dim <= spec.head_dim, "rope.dim", "even, at most head_dim", rope.dim)
    need(rope.dim > 2 or rope.kind != "dynamic", "rope.dim", "above 2 for kind 'dynamic'", rope.dim)
    for name, value in rope.params.items():
        need(name in known or name in switches, "rope.params", f"parameters of kind {rope.kind!r}", name)
        need(isinstance(value, bool) == (name in switches), f"rope.params.{name}", "a number, or a switch", value)
    for name, allowed in known.items():
        text, got = f"{allowed.low:g} to {allowed.high:g}", rope.params.get(name)
        need(got is not None or not allowed.required, f"rope.params.{name}", f"{text} for kind {rope.kind!r}", got)
        ok = got is None or allowed.low <= got <= allowed.high or (allowed.zero and got == 0)
        need(ok, f"rope.params.{name}", text, got)
    if rope.kind == "llama3":
        low, high = rope.params["low_freq_factor"], rope.params["high_freq_factor"]
        need(1.001 * low <= high, "rope.params.high_freq_factor", f"above low_freq_factor = {low}", high)
    need(spec.context_limit <= MAX_CONTEXT, "rope.params", f"a context of at most {MAX_CONTEXT}", spec.context_limit)
