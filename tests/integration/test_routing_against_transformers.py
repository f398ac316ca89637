"""The rules of other families' routers, as their parts describe them, against transformers' own modules."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import numpy as np
import pytest

from edge_runtime.base.spec import GroupSpec, RouterSpec
from edge_runtime.bundle.router_data import RouterData
from edge_runtime.policy.routing import Router

pytestmark = pytest.mark.oracle
E, K, D, T, V = 16, 4, 32, 40, 50


def _v3(**changes) -> dict:
    return {
        "num_experts_per_tok": K, "num_local_experts": E, "n_routed_experts": E, "hidden_size": D, "num_experts": E,
        "routed_scaling_factor": 2.5, "n_group": 4, "topk_group": 2, "norm_topk_prob": True,
    } | changes  # fmt: skip


SIGMOID_GROUPS = RouterSpec(
    E, K, "sigmoid", normalise=True, norm_epsilon=1e-20, scale=2.5, selection_bias=True,
    groups=GroupSpec(4, 2, "top2_sum"),
)  # fmt: skip
CASES = {
    "deepseek_v3.DeepseekV3TopkRouter": (_v3(), SIGMOID_GROUPS),
    "glm4_moe.Glm4MoeTopkRouter": (_v3(), SIGMOID_GROUPS),
    "nemotron_h.NemotronHTopkRouter": (_v3(), SIGMOID_GROUPS),
    "deepseek_v4.DeepseekV4TopKRouter": (
        _v3(scoring_func="sqrtsoftplus"),
        RouterSpec(E, K, "sqrt_softplus", normalise=True, norm_epsilon=1e-20, scale=2.5, selection_bias=True),
    ),
    "deepseek_v4.DeepseekV4HashRouter": (
        _v3(scoring_func="sqrtsoftplus", vocab_size=V),
        RouterSpec(E, K, "sqrt_softplus", normalise=True, norm_epsilon=1e-20, scale=2.5, hashed_layers=1),
    ),
    "gpt_oss.GptOssTopKRouter": (_v3(), RouterSpec(E, K, softmax_over="chosen", logit_bias=True)),
    "phimoe.PhimoeTopKRouter": (
        _v3(num_experts_per_tok=2, router_jitter_noise=0.01, input_jitter_noise=0.0),
        RouterSpec(E, 2, softmax_over="near", near=0.02),
    ),
    "ernie4_5_moe.Ernie4_5_MoeTopKRouter": (
        {"hidden_size": D, "num_experts": E, "moe_num_experts": E, "moe_k": K, "num_experts_per_tok": K,
         "moe_norm_min": 1e-12},
        RouterSpec(E, K, selection_bias=True, normalise=True),
    ),
    "gemma4.Gemma4TextRouter": (
        {"hidden_size": D, "rms_norm_eps": 1e-6, "num_experts": E, "top_k_experts": K},
        RouterSpec(E, K, normalise=True, expert_scale=True),
    ),
}  # fmt: skip


def built(name: str, config: dict):
    import torch

    family, cls = name.split(".")
    module = getattr(importlib.import_module(f"transformers.models.{family}.modeling_{family}"), cls)
    torch.manual_seed(0)
    router = module(SimpleNamespace(**config)).float().eval()
    with torch.no_grad():
        for each in (*router.parameters(), *router.buffers()):
            if each.is_floating_point():
                each.copy_(torch.randn_like(each) * (0.3 if each.ndim > 1 else 0.1))
            else:
                each.copy_(torch.stack([torch.randperm(E)[:K] for _ in range(V)]))
    return router


@pytest.mark.parametrize("case", CASES)
def test_a_router_described_by_parts_is_transformers(case):
    import torch

    config, spec = CASES[case]
    module = built(case, config)
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    x, tokens = torch.randn(T, D), np.arange(T, dtype=np.int32)
    with torch.no_grad():
        if spec.hashed_layers:
            logits, weights, ids = module(x, torch.tensor(tokens))
        elif "gemma4" in case:
            _, weights, ids = module(x)
            normed = module.norm(x) * module.scale * module.scalar_root_size
            logits = module.proj(normed)
        else:
            logits, weights, ids = module(x)
        if spec.logit_bias:
            logits = torch.nn.functional.linear(x, module.weight)

    def row(name: str) -> np.ndarray | None:
        found = next((value for key, value in state.items() if key.endswith(name)), None)
        return None if found is None else np.ascontiguousarray(found.reshape(1, -1), np.float32)

    data = RouterData(
        row("bias") if spec.logit_bias else None,
        row("e_score_correction_bias") if spec.selection_bias else None,
        row("per_expert_scale") if spec.expert_scale else None,
        state["tid2eid"][None].astype(np.int32) if spec.hashed_layers else None,
    )
    routing = Router(spec, (0,), data).route(0, np.ascontiguousarray(logits.numpy(), np.float32), tokens)
    for t in range(T):
        ours = dict(zip(routing.topk_ids[t].tolist(), routing.topk_weights[t].tolist(), strict=True))
        theirs = dict(zip(ids[t].tolist(), weights[t].tolist(), strict=True))
        assert ours.keys() == theirs.keys()
        assert ours == pytest.approx(theirs, rel=1e-5)
