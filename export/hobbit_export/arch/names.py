"""How a family names its tensors: canonical names to candidates, and the layouts experts come in. Data of adapters."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from edge_runtime.base.spec import ExpertSpec, Matrix
from hobbit_export.weight_parts import Derived

Named: TypeAlias = "str | tuple[str, ...] | Derived"
"""How an adapter names a canonical weight."""


class LeftOut(NamedTuple):
    """Tensors of a checkpoint that are not part of what is run.

    Attributes:
        pattern: matches the whole name.
        reason: what they are and why they are not needed; the exporter prints it.
    """

    pattern: re.Pattern[str]
    reason: str


ALWAYS_LEFT_OUT = (
    LeftOut(
        re.compile(r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq"),
        "rotary frequencies, which follow from config.json",
    ),
)
"""What checkpoints of any family may carry."""

LAYERS = "model.layers.{layer}."
TOP: Mapping[str, str] = {
    "embed": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
}
"""Embedding, last norm and head, as most families call them."""
ATTENTION: Mapping[str, str] = {
    "attn_norm": "input_layernorm.weight",
    "ffn_norm": "post_attention_layernorm.weight",
    **{n: f"self_attn.{n}_proj.weight" for n in "qkvo"},
    **{f"{n}_bias": f"self_attn.{n}_proj.bias" for n in "qkvo"},
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
}
"""Norms and attention of a layer, as most families call them."""


_BLOCK = re.compile(r"(?P<whole>.*)\[(?P<index>\d+)/(?P<count>\d+)\]")


def block_of(tensor: str, index: int, count: int) -> str:
    """Name of one of `count` equal blocks of rows of a tensor, from 0 on: where one tensor holds several weights."""
    return f"{tensor}[{index}/{count}]"


def block_in(name: str) -> tuple[str, int, int] | None:
    """Return (tensor, index, count) of a name that `block_of` made; None for the name of a whole tensor."""
    found = _BLOCK.fullmatch(name)
    return None if found is None else (found["whole"], int(found["index"]), int(found["count"]))


def mlp_names(canonical: str, block: str) -> dict[str, str]:
    """Names of a dense network: canonical ``dense`` or ``shared`` below a block such as ``mlp.shared_expert``."""
    return {f"{canonical}_{n}_proj": f"{block}.{n}_proj.weight" for n in ("gate", "up", "down")}


class RowRange(NamedTuple):
    """Rows of a tensor seen as a matrix, all dimensions but the last flattened: start, start + stride, ..."""

    tensor: str
    start: int
    rows: int
    stride: int = 1

    def part(self, first: int, last: int) -> tuple[int, int]:
        """Return the tensor rows to read for rows `first` to `last` (exclusive): every `stride`-th of them counts."""
        start = self.start + first * self.stride
        return start, start + (last - first - 1) * self.stride + 1


@dataclass(frozen=True)
class ExpertLayout:
    """One way to store experts. Patterns take {layer} and, where one tensor holds one expert, {expert}.

    Fused layouts hold all experts of a layer: gate_up [E, 2I, D] and down [E, D, I], or up [E, I, D] without a gate.

    Attributes:
        gate: tensor of the gate matrices; "" where experts have none.
        up: of the up matrices; the same tensor where gate and up are fused.
        down: of the down matrices.
        gate_bias: of the gate's biases; "" where there are none. Fused like the matrices: [E, 2I], else [I].
        up_bias: of up's.
        down_bias: of down's: [E, D], else [D].
        interleaved: gate and up rows alternate in a fused tensor; else all gate rows come first.
        transposed: matrices are stored with inputs before outputs, such as gate_up [E, D, 2I] and down [E, I, D].
    """

    gate: str
    up: str
    down: str
    gate_bias: str = ""
    up_bias: str = ""
    down_bias: str = ""
    interleaved: bool = field(default=False, kw_only=True)
    transposed: bool = field(default=False, kw_only=True)

    @property
    def fused(self) -> bool:
        """Whether one tensor holds every expert of a layer."""
        return "{expert}" not in self.down

    def tensor(self, layer_idx: int, expert_idx: int, matrix: Matrix, *, bias: bool = False) -> str:
        """Name of the tensor that holds an expert's matrix, or its bias."""
        pattern: str = getattr(self, f"{matrix}_bias" if bias else matrix)
        return pattern.format(layer=layer_idx, expert=expert_idx)

    def rows(self, layer_idx: int, expert_idx: int, matrix: Matrix, hidden: int, intermediate: int) -> RowRange:
        """Where an expert's gate or up [I, D] or down [D, I] lies."""
        name = self.tensor(layer_idx, expert_idx, matrix)
        count = hidden if matrix == "down" else intermediate
        if not self.fused:
            return RowRange(name, 0, count)
        if matrix == "down" or not self._joined:
            return RowRange(name, expert_idx * count, count)
        start, second = 2 * expert_idx * count, int(matrix == "up")
        return (
            RowRange(name, start + second, count, 2)
            if self.interleaved
            else RowRange(name, start + second * count, count)
        )

    def bias_part(self, expert_idx: int, matrix: Matrix, size: int) -> tuple[int, slice]:
        """Where an expert's bias lies in its tensor: a row (all dimensions but the last flattened), and which part."""
        row = expert_idx if self.fused else 0
        if matrix == "down" or not (self.fused and self._joined):
            return row, slice(0, size)
        second = int(matrix == "up")
        return row, slice(second, None, 2) if self.interleaved else slice(second * size, (second + 1) * size)

    def shape(self, matrix: Matrix, num_experts: int, hidden: int, intermediate: int) -> tuple[int, ...]:
        """Shape the tensor of a matrix must have."""
        if not self.fused:
            return (hidden, intermediate) if matrix == "down" else (intermediate, hidden)
        if matrix == "down":
            return (num_experts, hidden, intermediate)
        return (num_experts, (2 if self._joined else 1) * intermediate, hidden)

    def bias_shape(self, matrix: Matrix, num_experts: int, hidden: int, intermediate: int) -> tuple[int, ...]:
        """Shape the tensor of a matrix' biases must have."""
        return self.shape(matrix, num_experts, hidden, intermediate)[:-1]

    def fits(self, experts: ExpertSpec) -> bool:
        """Whether it has the tensors such experts need."""
        return bool(self.gate) == experts.gated and bool(self.down_bias) == experts.bias

    @property
    def _joined(self) -> bool:
        return self.gate == self.up


def per_expert(block: str, gate: str, up: str, down: str, *, bias: bool = False, layers: str = LAYERS) -> ExpertLayout:
    """Layout with a tensor for every matrix of every expert, below a block such as ``mlp``; gate "": there is none."""
    base = f"{layers}{block}.experts.{{expert}}."
    names = [f"{base}{name}.weight" if name else "" for name in (gate, up, down)]
    biases = [f"{base}{name}.bias" if name and bias else "" for name in (gate, up, down)]
    return ExpertLayout(*names, *biases)


def fused(
    block: str, *, gated: bool = True, bias: bool = False, interleaved: bool = False, transposed: bool = False,
    layers: str = LAYERS,
) -> ExpertLayout:  # fmt: skip
    """Layout with two tensors a layer, as transformers 5 holds experts in memory."""
    base = f"{layers}{block}.experts."
    up, down = base + ("gate_up_proj" if gated else "up_proj"), base + "down_proj"
    names = [up if gated else "", up, down]
    biases = [f"{name}_bias" if name and bias else "" for name in names]
    return ExpertLayout(*names, *biases, interleaved=interleaved, transposed=transposed)


@dataclass(frozen=True)
class Names:
    """Tensor names of one family.

    Attributes:
        layouts: accepted expert layouts; a layer must follow exactly one.
        layer: canonical name -> name below a layer, or several of which one is there, or how it comes from one; a name
            of `block_of` is a part of a tensor. Canonical are the names of `edge_runtime.backends.cpu.trunk.weights`,
            and for what a router adds ``router_logit_bias``, ``router_selection_bias``, ``router_expert_scale`` and
            ``router_hashed_experts``.
        top: canonical name -> the same, of embedding, last norm and head.
        layers: what a layer's names start with, or several of which one is there.
        left_out: tensors that are not part of what is run, such as a vision tower. The exporter reports them; any
            other tensor that nothing reads is an error.
        beyond: why layers behind the last one are left out; "" if a checkpoint may have none.
    """

    layouts: tuple[ExpertLayout, ...]
    layer: Mapping[str, Named]
    top: Mapping[str, Named] = field(default_factory=lambda: TOP)
    layers: str | tuple[str, ...] = LAYERS
    left_out: tuple[LeftOut, ...] = ()
    beyond: str = ""

    def left_out_of(self, num_layers: int) -> tuple[LeftOut, ...]:
        """What of a checkpoint is not part of a model with so many layers."""
        if not self.beyond:
            return self.left_out
        starts = [re.escape(p.format(layer=num_layers + i)) for p in _several(self.layers) for i in range(_MOST_BEYOND)]
        return (*self.left_out, LeftOut(re.compile(f"(?:{'|'.join(starts)}).*"), self.beyond))

    def candidates(self, canonical: str) -> tuple[str, ...]:
        """Checkpoint names a canonical weight may have.

        Raises:
            KeyError: the adapter does not name it.
        """
        named = self._named(canonical)
        prefixes: tuple[str, ...] = ("",)
        if canonical not in self.top:
            prefixes = tuple(p.format(layer=canonical.split(".")[1]) for p in _several(self.layers))
        found = named if isinstance(named, str | tuple) else named.tensor
        return tuple(prefix + each for prefix in prefixes for each in _several(found))

    def derived(self, canonical: str) -> Derived | None:
        """How a canonical weight comes from a tensor; None: it is one."""
        named = self._named(canonical)
        return None if isinstance(named, str | tuple) else named

    def present(self, canonical: str, tensors: Container[str]) -> list[str]:
        """Those of `candidates` that are among a checkpoint's tensors."""
        found = ((name, block_in(name)) for name in self.candidates(canonical))
        return [name for name, block in found if (block[0] if block else name) in tensors]

    def _named(self, canonical: str) -> Named:
        return self.top[canonical] if canonical in self.top else self.layer[canonical.split(".")[2]]


_MOST_BEYOND = 16  # layers behind the last one that a checkpoint may have


def _several(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names
