"""ModelSpec: what a MoE decoder is, in this project's own words, independent of any checkpoint's names.

Shape letters used in docstrings everywhere: T tokens, D hidden, I expert intermediate, E experts, K top-k, L layers,
H attention heads, G key/value heads, C head dim, N context, V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from edge_runtime.base.spec.attention import AttentionSpec, SoftmaxAttention
from edge_runtime.base.spec.checks import need, need_counts
from edge_runtime.base.spec.mlp import ExpertSpec, MlpSpec, SharedSpec
from edge_runtime.base.spec.rope import MAX_CONTEXT, RopeSpec
from edge_runtime.base.spec.router import RouterSpec
from edge_runtime.base.spec.state import StateArray, rope_of, state_of
from edge_runtime.base.strict import from_mapping

_LIMITS = {"vocab_size": 1 << 22, "hidden": 1 << 16, "max_context": MAX_CONTEXT}
MAX_LAYERS = 1024
_MAX_SCALE, _MAX_CAP = 1e6, 1e6
NormKind = Literal["rms", "layer"]


@dataclass(frozen=True)
class LayerSpec:
    """One decoder layer: attention, then a feed-forward part. A layer may lack one of the two.

    Attributes:
        attention: mixes tokens.
        sparse: the feed-forward part routes to experts.
        dense: the feed-forward part of a layer that does not.
        shared: what every token of a sparse layer passes beside its experts.
        output_norms: what attention and feed-forward part give is RMS-normed before the residual stream takes it.
        scaled: the residual stream behind the layer is multiplied by a number that was learned.
    """

    attention: AttentionSpec | None
    sparse: bool = True
    dense: MlpSpec | None = None
    shared: SharedSpec | None = None
    output_norms: bool = False
    scaled: bool = False

    @property
    def has_feed_forward(self) -> bool:
        """Whether the layer has experts or a dense network."""
        return self.sparse or self.dense is not None

    @property
    def window(self) -> int | None:
        """Tokens the layer's attention sees; None: all."""
        return self.attention.window if isinstance(self.attention, SoftmaxAttention) else None

    def check(self, where: str, max_context: int) -> None:
        """Refuse parts that exclude each other, and impossible parts.

        Raises:
            ValueError: names the field.
        """
        has_any = self.sparse or self.dense is not None or self.attention is not None
        need(has_any, where, "attention, sparse or dense", "none of them")
        need(not self.sparse or self.dense is None, f"{where}.dense", "null in a sparse layer", self.dense)
        need(self.sparse or self.shared is None, f"{where}.shared", "null in a layer without experts", self.shared)
        if self.attention is not None:
            self.attention.check(f"{where}.attention", max_context)
        if self.dense is not None:
            self.dense.check(f"{where}.dense")
        if self.shared is not None:
            self.shared.mlp.check(f"{where}.shared.mlp")
            both = self.shared.gate and self.shared.parallel
            need(not both, f"{where}.shared.gate", "false for a parallel network", True)


@dataclass(frozen=True)
class ModelSpec:
    """Everything the runtime must know about a model besides its weights.

    Attributes:
        family: the checkpoint's `model_type`.
        vocab_size: V.
        hidden: D, a multiple of 32.
        rms_eps: of every norm, whatever its kind.
        max_context: positions the model was trained for.
        layers: L of them.
        router: the rule of every sparse layer.
        experts: what every routed expert computes.
        tied_embeddings: the output head has the embedding's weights.
        bos_token_id: begins a text; None: nothing does.
        eos_token_ids: end a text.
        embedding_scale: what embeddings are multiplied by.
        logit_softcap: logits are softcap * tanh(logits / softcap); None: they are not.
        norm: of the residual stream, before attention, feed-forward part and head: RMS norm, or LayerNorm with a bias
            (Phi-3.5-MoE).
        head_bias: the output head has a bias.
        residual_scale: what an attention's and a feed-forward part's output is multiplied by before it is added to
            the residual stream (Granite).
        logit_scale: what logits are multiplied by.
    """

    family: str
    vocab_size: int
    hidden: int
    rms_eps: float
    max_context: int
    layers: list[LayerSpec]
    router: RouterSpec
    experts: ExpertSpec
    tied_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_ids: list[int] = field(default_factory=list)
    embedding_scale: float = 1.0
    logit_softcap: float | None = None
    norm: NormKind = "rms"
    head_bias: bool = False
    residual_scale: float = 1.0
    logit_scale: float = 1.0

    @property
    def num_layers(self) -> int:
        """Number of decoder layers, sparse and dense."""
        return len(self.layers)

    @property
    def sparse_layers(self) -> list[int]:
        """Indices of the layers that route to experts."""
        return [i for i, layer in enumerate(self.layers) if layer.sparse]

    @property
    def num_experts(self) -> int:
        """E, of every sparse layer."""
        return self.router.num_experts

    @property
    def top_k(self) -> int:
        """K: experts of a token at a layer."""
        return self.router.top_k

    @property
    def attention(self) -> SoftmaxAttention:
        """The attention of the first layer, for models whose layers differ by their window alone.

        Raises:
            ValueError: the first layer has none, or one of another kind.
        """
        first = self.layers[0].attention
        if not isinstance(first, SoftmaxAttention):
            raise ValueError("layers[0].attention: expected kind 'full' or 'sliding'")  # noqa: TRY004 - one error kind
        return first

    @property
    def ropes(self) -> list[RopeSpec]:
        """The distinct rotary embeddings of the layers, in their order."""
        found: list[RopeSpec] = []
        for layer in self.layers:
            rope = rope_of(layer.attention)
            if rope is not None and rope not in found:
                found.append(rope)
        return found

    def is_parallel(self, layer_idx: int) -> bool:
        """Whether a layer has a dense network in parallel with its experts; False for the layer before the first."""
        shared = self.layers[layer_idx].shared if layer_idx >= 0 else None
        return shared is not None and shared.parallel

    def state_of(self, layer_idx: int) -> tuple[StateArray, ...]:
        """What a layer keeps of the tokens before."""
        return state_of(self.layers[layer_idx].attention, self.hidden)

    @property
    def context_limit(self) -> int:
        """Tokens the model can attend to: its trained context, or what its rope scaling stretches that to."""
        return max(self.max_context, min((rope.stretched(self.max_context) for rope in self.ropes), default=1))

    @property
    def longest_alike(self) -> int | None:
        """Longest context whose sequences are rotated as all shorter ones are; None: any is. See `RopeSpec.is_long`."""
        ropes = [rope for layer in self.layers if (rope := getattr(layer.attention, "rope", None)) is not None]
        own = [int(rope.params["original_max_position_embeddings"]) for rope in ropes if rope.kind == "longrope"]
        return min(own, default=None)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for manifests and traces.

        `experts.codes` is left out where it is `linear`: programs of before it read what does not need it.
        """
        data = asdict(self)
        if self.experts.codes == "linear":
            del data["experts"]["codes"]
        return data

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
    need_counts(spec, _LIMITS, where)
    need(spec.hidden % 32 == 0, f"{where}.hidden", "a multiple of 32", spec.hidden)
    need(0 < spec.rms_eps < 1, f"{where}.rms_eps", "between 0 and 1", spec.rms_eps)
    for name in ("embedding_scale", "residual_scale", "logit_scale"):
        scale = getattr(spec, name)
        need(1e-6 <= scale <= _MAX_SCALE, f"{where}.{name}", f"1e-06 to {_MAX_SCALE:g}", scale)
    cap = spec.logit_softcap
    need(cap is None or 1e-3 <= cap <= _MAX_CAP, f"{where}.logit_softcap", f"0.001 to {_MAX_CAP:g}", cap)
    need(1 <= spec.num_layers <= MAX_LAYERS, f"{where}.layers", f"1 to {MAX_LAYERS} layers", spec.num_layers)
    need(bool(spec.sparse_layers), f"{where}.layers", "at least one sparse layer", "none")
    for i, layer in enumerate(spec.layers):
        layer.check(f"{where}.layers[{i}]", spec.max_context)
    spec.router.check(f"{where}.router", num_sparse=len(spec.sparse_layers))
    spec.experts.check(f"{where}.experts")
    for token in [*spec.eos_token_ids, *([] if spec.bos_token_id is None else [spec.bos_token_id])]:
        need(0 <= token < spec.vocab_size, f"{where}.eos/bos token", f"below vocab_size = {spec.vocab_size}", token)
