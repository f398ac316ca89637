"""A manifest's model: every lie is a BundleError that names its field, and what nothing computes is refused by name."""

from __future__ import annotations

import copy
import dataclasses

import pytest
from manifests import GOOD, VERSIONS, resealed

from edge_runtime.backends.cpu.trunk.oracles import MIXERS
from edge_runtime.backends.cpu.trunk.supported import require_supported
from edge_runtime.base.errors import BundleError, ConfigError
from edge_runtime.base.spec import ModelSpec, mixer_kind
from edge_runtime.bundle import manifest_file

MODEL_LIES = {
    "hidden not a multiple": (("hidden",), 33, "model.hidden"),
    "huge vocabulary": (("vocab_size",), 1 << 40, "vocab_size"),
    "unknown nested key": (("hiden",), 1, "Did you mean 'hidden'"),
    "no layers": (("layers",), [], "layers"),
    "eos outside": (("eos_token_ids",), [64], "token"),
}
WHOLE_MODEL_LIES = {
    "embeddings scaled to nothing": (("embedding_scale",), 0.0, "embedding_scale"),
    "endless embeddings": (("embedding_scale",), 1e30, "embedding_scale"),
    "a cap of nothing": (("logit_softcap",), 0.0, "logit_softcap"),
    "a floor of infinity": (("router", "norm_floor"), 2.0, "norm_floor"),
    "a residual stream nothing is added to": (("residual_scale",), 0.0, "residual_scale"),
    "endless logits": (("logit_scale",), 1e30, "logit_scale"),
    "an endless cap": (("logit_softcap",), 1e300, "logit_softcap"),
}
MODEL_LIES_OF = {
    1: MODEL_LIES
    | {
        "negative experts": (("num_experts",), -1, "num_experts"),
        "top_k above experts": (("top_k",), 5, "top_k"),
        "half a panel": (("expert_intermediate",), 48, "intermediate"),
        "a divisor that is none": (("num_kv_heads",), 3, "num_kv_heads"),
        "no window": (("layers", 0, "sliding_window"), 0, "window"),
        "nothing in a layer": (("layers", 0, "sparse"), False, "sparse or dense_intermediate"),
        "theta of one": (("rope", "theta"), 1.0, "theta"),
        "endless theta": (("rope", "theta"), 1e300, "theta"),
        "clip below zero": (("clip_qkv",), -1.0, "clip_qkv"),
    },
    2: MODEL_LIES
    | WHOLE_MODEL_LIES
    | {
        "negative experts": (("router", "num_experts"), -1, "router.num_experts"),
        "top_k above experts": (("router", "top_k"), 5, "router.top_k"),
        "score of another name": (("router", "score"), "sigmoids", "Did you mean 'sigmoid'"),
        "softmax of the chosen, twice": (("router", "softmax_over"), "chosen", "router.softmax_over"),
        "epsilon without a sum": (("router",), {"normalise": False, "norm_epsilon": 1e-6}, "norm_epsilon"),
        "negative epsilon": (("router", "norm_epsilon"), -1e-6, "norm_epsilon"),
        "no scale": (("router", "scale"), 0.0, "router.scale"),
        "endless scale": (("router", "scale"), 1e300, "router.scale"),
        "more hashed layers than there are": (("router", "hashed_layers"), 3, "hashed_layers"),
        "groups that do not divide": (("router", "groups"), {"count": 3, "chosen": 2}, "groups.count"),
        "one group": (("router", "groups"), {"count": 1, "chosen": 1}, "groups.count"),
        "groups too few": (("router", "groups"), {"count": 4, "chosen": 1}, "groups.chosen"),
        "more groups than there are": (("router", "groups"), {"count": 2, "chosen": 3}, "groups.chosen"),
        "two best of one": (("router", "groups"), {"count": 4, "chosen": 2, "score": "top2_sum"}, "groups.score"),
        "a norm scaled to nothing": (("router", "norm_scale"), 0.0, "router.norm_scale"),
        "a gate in parallel": (
            ("layers", 1, "shared"), {"mlp": {"intermediate": 32}, "parallel": True, "gate": True}, "shared.gate",
        ),
        "half a panel": (("experts", "intermediate"), 48, "experts.intermediate"),
        "huge experts": (("experts", "intermediate"), 1 << 40, "experts.intermediate"),
        "activation": (("experts", "activation"), "gelu_tan", "Did you mean 'gelu_tanh'"),
        "a limit without a gate": (("experts",), {"gated": False, "limit": 7.0}, "experts.limit"),
        "limit of zero": (("experts", "limit"), 0.0, "experts.limit"),
        "a slope of another activation": (("experts",), {"activation": "relu2", "alpha": 1.702}, "experts.alpha"),
        "an offset without a gate": (("experts",), {"gated": False, "up_offset": 1.0}, "experts.up_offset"),
        "endless offset": (("experts", "up_offset"), 1e300, "experts.up_offset"),
        "kind of attention": (("layers", 0, "attention", "kind"), "fool", "attention.kind: expected one of"),
        "attention without kind": (("layers", 0, "attention"), {"num_heads": 2}, "attention.kind"),
        "attention as text": (("layers", 0, "attention"), "full", "attention: expected an object"),
        "a window in full attention": (("layers", 0, "attention", "window"), 8, "attention.window"),
        "sliding without a window": (("layers", 0, "attention", "kind"), "sliding", "attention.window"),
        "a divisor that is none": (("layers", 0, "attention", "num_kv_heads"), 3, "num_kv_heads"),
        "scale of nothing": (("layers", 0, "attention", "scale"), 0.0, "attention.scale"),
        "clip below zero": (("layers", 0, "attention", "clip_qkv"), -1.0, "clip_qkv"),
        "keys of another kind": (("layers", 0, "attention", "kv_rank"), 8, "unknown key 'kv_rank'"),
        "theta of one": (("layers", 1, "attention", "rope", "theta"), 1.0, r"layers\[1\].attention.rope.theta"),
        "endless theta": (("layers", 0, "attention", "rope", "theta"), 1e300, "theta"),
        "dense and sparse": (("layers", 0, "dense"), {"intermediate": 32}, r"layers\[0\].dense"),
        "shared beside nothing": (("layers", 0), {"sparse": False, "shared": {"mlp": {"intermediate": 8}}}, "shared"),
        "a layer of nothing": (("layers", 0), {"sparse": False, "attention": None}, "none of them"),
        "a dense layer of no width": (("layers", 0), {"sparse": False, "dense": {"intermediate": 0}}, "dense"),
        "a shared expert of no width": (("layers", 0, "shared"), {"mlp": {"intermediate": 0}}, "shared.mlp"),
    },
}  # fmt: skip
OTHER_KINDS = {
    "mla": {"num_heads": 4, "query_rank": None, "kv_rank": 512, "nope_dim": 128, "rope_dim": 64, "value_dim": 128,
            "rope": {"kind": "default", "theta": 1e4, "dim": 64}},
    "linear": {"rule": "gated_delta", "num_key_heads": 2, "num_value_heads": 4, "key_dim": 128, "value_dim": 128,
               "kernel": 4},
    "convolution": {"kernel": 3},
}  # fmt: skip
KIND_LIES = {
    "mla": {"num_heads": 0, "query_rank": 0, "kv_rank": 1 << 40, "nope_dim": -1, "rope_dim": 31, "value_dim": 0,
            "scale": 0.0, "rope": 3},
    "linear": {"rule": "delta", "num_key_heads": 3, "num_value_heads": 0, "key_dim": 1 << 40, "value_dim": 0,
               "kernel": 0},
    "convolution": {"kernel": 1 << 20},
}  # fmt: skip


def lie_about_model(version: int, keys: tuple, value: object) -> bytes:
    """Set a field, or update an object with several."""
    data = copy.deepcopy(GOOD[version])
    target = data["model"]
    for key in keys[:-1]:
        target = target[key]
    if isinstance(value, dict) and isinstance(old := target[keys[-1]], dict) and "kind" not in old:
        old.update(value)
    else:
        target[keys[-1]] = value
    return resealed(data)


@pytest.mark.parametrize(("version", "lie"), [(v, lie) for v in VERSIONS for lie in MODEL_LIES_OF[v]])
def test_lies_about_the_model(version, lie):
    keys, value, message = MODEL_LIES_OF[version][lie]
    with pytest.raises(BundleError, match=message):
        manifest_file.parse(lie_about_model(version, keys, value))


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_kinds_of_attention_are_described_and_refused_by_name_where_nothing_computes_them(kind):
    attention = {"kind": kind} | OTHER_KINDS[kind]
    model = manifest_file.parse(lie_about_model(2, ("layers", 1, "attention"), attention)).model
    assert model.layers[1].attention.kind == kind
    if mixer_kind(model.layers[1].attention) in MIXERS:
        require_supported(model)
    else:
        with pytest.raises(ConfigError, match=f"layer 1: attention of kind '{kind}'.*: not supported"):
            require_supported(model)
    for key, value in KIND_LIES[kind].items():
        with pytest.raises(BundleError, match=rf"layers\[1\]\.attention\.({key}|rope|num_value_heads)"):
            manifest_file.parse(lie_about_model(2, ("layers", 1, "attention"), attention | {key: value}))


@pytest.mark.parametrize(
    "experts", [{"gated": False}, {"activation": "relu2"}, {"bias": True}, {"limit": 7.0}, {"up_offset": 1.0}]
)
def test_every_form_of_experts_that_can_be_described_runs(experts):
    model = copy.deepcopy(GOOD[2]["model"])
    model["experts"] |= experts
    spec = ModelSpec.from_json(model)
    require_supported(spec)
    assert spec.experts == dataclasses.replace(ModelSpec.from_json(GOOD[2]["model"]).experts, **experts)


LINEAR = {"kind": "linear", **OTHER_KINDS["linear"]}
UNSUPPORTED = {
    "Gated DeltaNet with a bias of its convolution": LINEAR | {"conv_bias": True},
    "Gated DeltaNet with more than 32 value heads for a key head": LINEAR | {"num_value_heads": 128},
}


@pytest.mark.parametrize("what", UNSUPPORTED)
def test_what_the_trunk_does_not_run_yet_is_refused_by_name(what):
    model = copy.deepcopy(GOOD[2]["model"])
    model["layers"][1]["attention"] = UNSUPPORTED[what]
    with pytest.raises(ConfigError, match=f"layer 1: {what}"):
        require_supported(ModelSpec.from_json(model))
