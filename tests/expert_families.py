"""Throw-away families, one for each form of experts and routers: an adapter, and torch models as its oracle. Needs torch.

The trunk is transformers' olmoe. Experts and routers are transformers' own modules of other families where it has them,
and a few lines of torch otherwise; neither shares a line with the exporter or the runtime.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from families import EOS, write_tokenizer
from synthetic import write_safetensors

from edge_runtime.base.spec import ExpertSpec, GroupSpec, LayerSpec, ModelSpec, RouterSpec
from hobbit_export.arch import olmoe
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import read_attention, read_sizes
from hobbit_export.arch.names import ATTENTION, ExpertLayout, LeftOut, Names, fused, per_expert

if TYPE_CHECKING:
    import torch

D, I, E, K, LAYERS, VOCABULARY = 96, 64, 8, 3, 3, 300  # noqa: E741
ROUTER_NAMES = {
    "router": "mlp.gate.weight",
    "router_logit_bias": "mlp.gate.bias",
    "router_selection_bias": "mlp.gate.e_score_correction_bias",
    "router_expert_scale": "mlp.gate.per_expert_scale",
    "router_hashed_experts": "mlp.gate.tid2eid",
}
MTP = LeftOut(re.compile(r"mtp\..*"), "layers that predict several tokens, which are not run")
SEPARATE = per_expert("mlp", "", "up_proj", "down_proj")
SEPARATE_BIASED = per_expert("mlp", "gate_proj", "up_proj", "down_proj", bias=True)


@dataclass(frozen=True)
class Family:
    """One form.

    Attributes:
        experts: its part of the spec.
        router: its part of the spec.
        layout: how its checkpoint stores experts.
        expert_module: "family.Class" of transformers; "": torch code of this file.
        router_module: the same for routers, one for the hashed layers and one for the others.
    """

    experts: ExpertSpec
    router: RouterSpec
    layout: ExpertLayout
    expert_module: str = ""
    router_module: tuple[str, ...] = ()


_SOFTMAX = RouterSpec(E, K, normalise=True)
FAMILIES = {
    "toy_gpt_oss": Family(
        ExpertSpec(I, bias=True, limit=7.0, alpha=1.702, up_offset=1.0),
        RouterSpec(E, K, softmax_over="chosen", logit_bias=True),
        fused("mlp", bias=True, interleaved=True),
        "gpt_oss.GptOssExperts",
        ("gpt_oss.GptOssTopKRouter",),
    ),
    "toy_nemotron": Family(
        ExpertSpec(I, gated=False, activation="relu2"),
        RouterSpec(
            E, K, "sigmoid", normalise=True, norm_epsilon=1e-20, scale=2.5, selection_bias=True,
            groups=GroupSpec(4, 2, "top2_sum"),
        ),
        SEPARATE,
        "nemotron_h.NemotronHExperts",
        ("nemotron_h.NemotronHTopkRouter",),
    ),
    "toy_deepseek_v4": Family(
        ExpertSpec(I, limit=1.5),
        RouterSpec(
            E, K, "sqrt_softplus", normalise=True, norm_epsilon=1e-20, scale=1.5, selection_bias=True, hashed_layers=1
        ),
        fused("mlp"),
        "deepseek_v4.DeepseekV4Experts",
        ("deepseek_v4.DeepseekV4HashRouter", "deepseek_v4.DeepseekV4TopKRouter"),
    ),
    "toy_gemma4": Family(
        ExpertSpec(I, activation="gelu_tanh"), replace(_SOFTMAX, expert_scale=True), fused("mlp"),
        "gemma4.Gemma4TextExperts",
    ),
    "toy_gelu_ungated": Family(
        ExpertSpec(I, gated=False, activation="gelu_tanh", bias=True), _SOFTMAX,
        fused("mlp", gated=False, bias=True),
    ),
    "toy_relu2_gated": Family(
        ExpertSpec(I, activation="relu2", bias=True, limit=1.25), replace(_SOFTMAX, logit_bias=True), SEPARATE_BIASED
    ),
    "toy_silu_ungated": Family(ExpertSpec(I, gated=False, alpha=1.702), replace(_SOFTMAX, scale=0.5), SEPARATE),
    "toy_gelu_offset": Family(
        ExpertSpec(I, activation="gelu_tanh", bias=True, limit=0.8, up_offset=0.5), _SOFTMAX,
        fused("mlp", bias=True, interleaved=True),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """The adapter of a form: olmoe with other experts and another router."""

    MODEL_TYPE: str
    family: Family
    DEFAULTS = olmoe.DEFAULTS

    @property
    def NAMES(self) -> Names:
        return Names((self.family.layout,), {**ATTENTION, **ROUTER_NAMES}, left_out=(MTP,))

    def read_spec(self, reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
        sizes = read_sizes(reader, generation, self.DEFAULTS)
        attention = read_attention(reader, sizes, self.DEFAULTS, qk_norm="full")
        layers = [LayerSpec(attention)] * reader.count("num_hidden_layers", None)
        for key in ("num_experts", "num_experts_per_tok", "intermediate_size", "norm_topk_prob", "clip_qkv"):
            reader.get(key)
        reader.finish(frozenset({"attention_bias", "sliding_window"}))
        return ModelSpec(
            family=self.MODEL_TYPE, **vars(sizes), layers=layers, router=self.family.router, experts=self.family.experts
        )


def adapter(name: str) -> Adapter:
    return Adapter(name, FAMILIES[name])


# ---- the oracle


def _module(name: str, **config: Any) -> torch.nn.Module:
    import torch

    family, cls = name.split(".")
    values = {
        "num_local_experts": E, "num_experts": E, "n_routed_experts": E, "num_experts_per_tok": K, "hidden_size": D,
        "intermediate_size": I, "moe_intermediate_size": I, "moe_latent_size": None, "routed_scaling_factor": 1.0,
        "n_group": 1, "topk_group": 1, "norm_topk_prob": True, "vocab_size": VOCABULARY, "hidden_act": "silu",
        "mlp_hidden_act": "relu2", "hidden_activation": "gelu_pytorch_tanh", "scoring_func": "sqrtsoftplus",
    }  # fmt: skip
    made = getattr(importlib.import_module(f"transformers.models.{family}.modeling_{family}"), cls)
    return made(SimpleNamespace(**{**values, **config}, _experts_implementation="eager")).to(torch.float32)


def _act(experts: ExpertSpec) -> Callable[[torch.Tensor], torch.Tensor]:
    import torch

    return {
        "silu": lambda v: v * torch.sigmoid(experts.alpha * v),
        "gelu_tanh": lambda v: torch.nn.functional.gelu(v, approximate="tanh"),
        "relu2": lambda v: torch.relu(v) ** 2,
    }[experts.activation]


def _torch_experts(experts: ExpertSpec) -> torch.nn.Module:
    import torch

    class Experts(torch.nn.Module):
        """Experts of any form; parameters named as transformers 5 names them."""

        def __init__(self) -> None:
            super().__init__()
            wide = "gate_up_proj" if experts.gated else "up_proj"
            rows = 2 * I if experts.gated else I
            self.wide = wide
            self.register_parameter(wide, torch.nn.Parameter(torch.empty(E, rows, D)))
            self.down_proj = torch.nn.Parameter(torch.empty(E, D, I))
            if experts.bias:
                self.register_parameter(f"{wide}_bias", torch.nn.Parameter(torch.empty(E, rows)))
                self.down_proj_bias = torch.nn.Parameter(torch.empty(E, D))

        def forward(self, x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            out, act = torch.zeros_like(x), _act(experts)
            for token in range(len(x)):
                for rank in range(K):
                    e = int(ids[token, rank])
                    wide = getattr(self, self.wide)[e] @ x[token]
                    if experts.bias:
                        wide = wide + getattr(self, f"{self.wide}_bias")[e]
                    if experts.gated:
                        gate, up = wide[:I], wide[I:]
                        if experts.limit is not None:
                            gate, up = gate.clamp(max=experts.limit), up.clamp(-experts.limit, experts.limit)
                        hidden = act(gate) * (up + experts.up_offset)
                    else:
                        hidden = act(wide)
                    y = self.down_proj[e] @ hidden
                    out[token] += weights[token, rank] * (y + self.down_proj_bias[e] if experts.bias else y)
            return out

    return Experts()


def _torch_router(router: RouterSpec) -> torch.nn.Module:
    import torch

    class Softmax(torch.nn.Module):
        """The softmax routers of the small forms."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.empty(E, D))
            if router.logit_bias:
                self.bias = torch.nn.Parameter(torch.empty(E))
            if router.expert_scale:
                self.per_expert_scale = torch.nn.Parameter(torch.empty(E))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            logits = torch.nn.functional.linear(x, self.weight, self.bias if router.logit_bias else None)
            weights, ids = torch.topk(logits.softmax(-1), K, dim=-1)
            weights = router.scale * weights / weights.sum(-1, keepdim=True)
            return logits, weights * self.per_expert_scale[ids] if router.expert_scale else weights, ids

    return Softmax()


def make_model(name: str, seed: int = 0) -> torch.nn.Module:
    """An olmoe of transformers whose sparse blocks are the form's. Random weights, rounded to bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, OlmoeConfig

    family, config = FAMILIES[name], OlmoeConfig(**_config())
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()

    class Block(torch.nn.Module):
        def __init__(self, layer: int) -> None:
            super().__init__()
            names, hashed = family.router_module, layer < family.router.hashed_layers
            groups = family.router.groups
            options = {"routed_scaling_factor": family.router.scale, "n_group": groups.count if groups else 1}
            options["topk_group"] = groups.chosen if groups else 1
            self.gate = _module(names[0 if hashed else -1], **options) if names else _torch_router(family.router)
            limits = {"swiglu_limit": family.experts.limit, "swiglu_alpha": family.experts.alpha}
            made = family.expert_module
            self.experts = _module(made, **limits) if made else _torch_experts(family.experts)
            self.hashed = hashed

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            x = hidden.reshape(-1, D)
            _, weights, ids = self.gate(x, model.tokens) if self.hashed else self.gate(x)
            return self.experts(x, ids, weights).reshape(hidden.shape)

    for layer, block in enumerate(model.model.layers):
        block.mlp = Block(layer)
    with torch.no_grad():
        for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
            _randomise(key, tensor, 3.0 if (family.experts.limit or 0) > 2 else 1.0)  # so that limits are met
    return model


def _config() -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY, "hidden_size": D, "intermediate_size": I, "num_hidden_layers": LAYERS,
        "num_attention_heads": 3, "num_key_value_heads": 3, "num_experts": E, "num_experts_per_tok": K,
        "max_position_embeddings": 256, "pad_token_id": None, "bos_token_id": None, "eos_token_id": EOS,
    }  # fmt: skip


def _randomise(name: str, tensor: torch.Tensor, spread: float) -> None:
    import torch

    fan_in = tensor.shape[-1] ** 0.5 if tensor.ndim else 1.0
    if name.endswith("tid2eid"):
        tensor.copy_(torch.stack([torch.randperm(E)[:K] for _ in range(VOCABULARY)]))
    elif "rotary" in name:
        return
    elif name.endswith("norm.weight"):
        tensor.normal_(1.0, 0.15)
    elif name.endswith("per_expert_scale"):
        tensor.uniform_(0.5, 1.5)
    elif name.endswith("bias"):
        tensor.normal_(0.0, 0.3)
    elif "embed_tokens" in name:
        tensor.normal_(0.0, 0.6)
    elif "lm_head" in name or name.endswith("gate.weight"):
        tensor.normal_(0.0, 4.0 / fan_in)
    elif ".experts." in name:
        tensor.normal_(0.0, spread / D**0.5)
    else:
        tensor.normal_(0.0, 1.0 / fan_in)
    if tensor.is_floating_point():
        tensor.copy_(tensor.to(torch.bfloat16).float())


def logits(model: torch.nn.Module, ids: list[int]) -> np.ndarray:
    """Logits [T, V] of one pass."""
    import torch

    model.tokens = torch.tensor(ids)
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].numpy()


# ---- its checkpoint


def write_checkpoint(name: str, model: torch.nn.Module, out: Path) -> Path:
    """Write the model as the form's layout stores it, with tensors nothing needs beside it."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps({**_config(), "model_type": name}))
    state = {key: value.numpy() for key, value in model.state_dict().items() if "rotary" not in key}
    tensors: dict[str, np.ndarray] = {}
    for key, value in state.items():
        if ".mlp.experts." not in key:
            tensors[key] = value.astype(np.int64) if key.endswith("tid2eid") else _bf16(value)
    for layer in range(LAYERS):
        block = {k.rsplit(".", 1)[1]: v for k, v in state.items() if f"layers.{layer}.mlp.experts." in k}
        tensors |= _expert_tensors(FAMILIES[name], layer, block, transposed="gpt_oss" in name)
    tensors |= {"mtp.0.weight": np.zeros((4, 8), np.float32), "mtp.0.norm.weight": np.zeros(8, np.float32)}
    write_safetensors(out / "model.safetensors", tensors)
    write_tokenizer(out)
    return out


def _bf16(values: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def _expert_tensors(
    family: Family, layer: int, block: Mapping[str, np.ndarray], *, transposed: bool
) -> dict[str, np.ndarray]:
    """Rows and biases of a layer's experts under the names, and in the order, of the family's layout."""
    experts, layout, found = family.experts, family.layout, {}
    wide = "gate_up_proj" if experts.gated else "up_proj"
    for bias in (False, True)[: 1 + experts.bias]:
        end = "_bias" if bias else ""
        joined, down = block[wide + end], block["down_proj" + end]
        if transposed and not bias:
            joined, down = joined.transpose(0, 2, 1), down.transpose(0, 2, 1)
        # gpt-oss' module holds gate and up alternating, the others gate first
        halves = [joined[:, ::2], joined[:, 1::2]] if transposed else [joined[:, :I], joined[:, I:]]
        if not experts.gated:
            halves = [joined]
        if layout.fused:
            both = np.stack(halves, axis=2) if layout.interleaved else np.stack(halves, axis=1)
            found[layout.tensor(layer, 0, "up", bias=bias)] = _bf16(both.reshape(joined.shape))
            found[layout.tensor(layer, 0, "down", bias=bias)] = _bf16(down)
            continue
        for e in range(E):
            for matrix, values in zip(experts.matrices, [*halves, down], strict=True):
                found[layout.tensor(layer, e, matrix, bias=bias)] = _bf16(values[e])
    return found
