"""How a family names its tensors: canonical trunk names to candidates, and the layouts experts come in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

MATRICES = ("gate", "up", "down")
"""An expert's matrices in the order of the encoder: down( silu(gate x) * (up x) )."""

IGNORABLE = re.compile(r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
"""Tensors old checkpoints carry that follow from the config."""


class RowRange(NamedTuple):
    """Rows start to stop of a tensor seen as a matrix (all dimensions but the last flattened)."""

    tensor: str
    start: int
    stop: int


@dataclass(frozen=True)
class ExpertLayout:
    """One way to store experts. Patterns take {layer} and, where one tensor holds one expert, {expert}.

    Fused layouts hold all experts of a layer: gate_up [E, 2I, D] (gate rows first) and down [E, D, I].
    """

    gate: str
    up: str
    down: str

    @property
    def fused(self) -> bool:
        """Whether one tensor holds every expert of a layer."""
        return "{expert}" not in self.down

    def tensor(self, layer_idx: int, expert_idx: int, matrix: str) -> str:
        """Name of the tensor that holds an expert's matrix."""
        return str(getattr(self, matrix)).format(layer=layer_idx, expert=expert_idx)

    def rows(self, layer_idx: int, expert_idx: int, matrix: str, hidden: int, intermediate: int) -> RowRange:
        """Where an expert's gate or up [I, D] or down [D, I] lies."""
        name = self.tensor(layer_idx, expert_idx, matrix)
        count = hidden if matrix == "down" else intermediate
        if not self.fused:
            return RowRange(name, 0, count)
        stride = hidden if matrix == "down" else 2 * intermediate
        start = expert_idx * stride + (intermediate if matrix == "up" else 0)
        return RowRange(name, start, start + count)

    def shape(self, matrix: str, num_experts: int, hidden: int, intermediate: int) -> tuple[int, ...]:
        """Shape the tensor of a matrix must have."""
        if self.fused:
            return (num_experts, hidden, intermediate) if matrix == "down" else (num_experts, 2 * intermediate, hidden)
        return (hidden, intermediate) if matrix == "down" else (intermediate, hidden)


def per_expert(prefix: str, gate: str, up: str, down: str) -> ExpertLayout:
    """Layout with three tensors an expert, below a prefix such as ``mlp``."""
    base = f"model.layers.{{layer}}.{prefix}.experts.{{expert}}."
    return ExpertLayout(base + f"{gate}.weight", base + f"{up}.weight", base + f"{down}.weight")


def fused(prefix: str) -> ExpertLayout:
    """Layout with two tensors a layer, as transformers 5 holds experts in memory."""
    base = f"model.layers.{{layer}}.{prefix}.experts."
    return ExpertLayout(base + "gate_up_proj", base + "gate_up_proj", base + "down_proj")


@dataclass(frozen=True)
class Names:
    """Tensor names of one family.

    Attributes:
        moe_prefixes: names of the block that holds router and experts.
        layouts: accepted expert layouts; a layer must follow exactly one.
    """

    moe_prefixes: tuple[str, ...]
    layouts: tuple[ExpertLayout, ...]

    def candidates(self, canonical: str) -> tuple[str, ...]:
        """Checkpoint names a canonical trunk weight may have."""
        if canonical in _TOP:
            return (_TOP[canonical],)
        _, layer_idx, name = canonical.split(".")
        prefix = f"model.layers.{layer_idx}."
        if name == "router":
            return tuple(f"{prefix}{moe}.gate.weight" for moe in self.moe_prefixes)
        return (prefix + _LAYER[name],)


_TOP = {"embed": "model.embed_tokens.weight", "final_norm": "model.norm.weight", "head": "lm_head.weight"}
_LAYER = {
    "attn_norm": "input_layernorm.weight",
    "ffn_norm": "post_attention_layernorm.weight",
    **{n: f"self_attn.{n}_proj.weight" for n in "qkvo"},
    **{f"{n}_bias": f"self_attn.{n}_proj.bias" for n in "qkvo"},
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    **{f"shared_{n}_proj": f"mlp.shared_expert.{n}_proj.weight" for n in MATRICES},
    **{f"dense_{n}_proj": f"mlp.{n}_proj.weight" for n in MATRICES},
    "shared_expert_gate": "mlp.shared_expert_gate.weight",
}
