"""The manifest parser takes nothing on trust: every lie is a BundleError that names it, never a crash or a wrong value."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import as_version1, layer_of, resealed, role_of, small_manifest

from edge_runtime.backends.cpu.trunk.memory import plan_trunk_bytes, scratch_bytes
from edge_runtime.backends.cpu.trunk.oracles import MIXERS
from edge_runtime.backends.cpu.trunk.rope import Rotary
from edge_runtime.backends.cpu.trunk.supported import require_supported
from edge_runtime.base.errors import BundleError, ConfigError
from edge_runtime.base.spec import MAX_CONTEXT, ModelSpec, RopeSpec, mixer_kind
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.manifest_check import required_parts
from edge_runtime.bundle.part_names import ROUTERS

GOOD = {2: json.loads(manifest_file.dump(small_manifest())), 1: as_version1(small_manifest())}
VERSIONS = sorted(GOOD)


def test_a_good_manifest_round_trips():
    manifest = manifest_file.parse(manifest_file.dump(small_manifest()))
    assert manifest_file.dump(manifest) == manifest_file.dump(small_manifest())


def test_a_manifest_of_version_1_is_the_same_model():
    manifest = manifest_file.parse(resealed(copy.deepcopy(GOOD[1])))
    assert (manifest.version, manifest.model) == (1, small_manifest().model)
    assert manifest_file.dump(manifest) == manifest_file.dump(small_manifest()), "written again it is version 2"


def test_each_version_has_its_own_model():
    for version, other in ((1, 2), (2, 1)):
        with pytest.raises(BundleError, match=r"manifest\.json.*model.*: unknown key"):
            manifest_file.parse(resealed(GOOD[version] | {"model": GOOD[other]["model"]}))


LIES = {
    "other format": (("format",), "zip", "format"),
    "future version": (("version",), 3, "version"),
    "version as text": (("version",), "2", "version"),
    "version as bool": (("version",), True, "version"),
    "unknown key": (("extra",), 1, "unknown key 'extra'"),
    "tier unknown": (("experts", "tiers"), [3], "tiers"),
    "tiers unsorted": (("experts", "tiers"), [4, 2], "tiers"),
    "tier deeper than stored": (("experts", "num_segments"), 2, "tiers"),
    "only bf16": (("experts", "tiers"), [16], "tiers"),
    "bf16 files missing": (("experts", "tiers"), [2, 16], "bf16.hbx"),
    "precision": (("trunk", "precision"), "int3", "precision"),
    "parent path": (("parts", 0, "name"), "../x", "not a plain path"),
    "absolute path": (("parts", 0, "name"), "/etc/passwd", "not a plain path"),
    "hidden path": (("parts", 0, "name"), "trunk/.x", "not a plain path"),
    "windows path": (("parts", 0, "name"), "a\\b", "not a plain path"),
    "negative size": (("parts", 0, "bytes"), -1, "impossible size"),
    "huge size": (("parts", 0, "bytes"), 1 << 60, "impossible size"),
    "malformed hash": (("parts", 0, "sha256"), "xyz", "checksum"),
    "crc too big": (("parts", 0, "crc32c"), 1 << 32, "checksum"),
    "block size without blocks": (("trunk", "block_size"), 128, "block_size"),
    "negative opset": (("trunk", "opset"), -1, "opset"),
    "a precision that is not the graphs'": (("trunk",), {"precision": "int8", "block_size": 128, "opset": 18}, "head"),
    "blocks of no size": (("trunk",), {"precision": "int8", "block_size": 0, "opset": 18}, "block_size"),
    "source digest": (("source", "config_sha256"), "0", "source"),
    "sample digest": (("source", "weights_sample_sha256"), "x" * 64, "source"),
    "negative source": (("source", "weight_bytes"), -1, "source"),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("lie", LIES)
def test_lies(version, lie):
    (*path, last), value, message = LIES[lie]
    data = target = copy.deepcopy(GOOD[version])
    for key in path:
        target = target[key]
    target[last] = value
    with pytest.raises(BundleError, match=message):
        manifest_file.parse(resealed(data))


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


def test_every_part_has_the_role_and_layer_of_its_name():
    for number, part in enumerate(small_manifest((2, 8, 16)).parts):
        assert (part.role, part.layer) == (role_of(part.name), layer_of(part.name))
        for key, values in (("role", ["experts", "calibration", "experts_bf16"]), ("layer", [None, 0, 1, 7])):
            for value in values:
                data = json.loads(manifest_file.dump(small_manifest((2, 8, 16))))
                if data["parts"][number][key] == value:
                    continue
                data["parts"][number][key] = value
                with pytest.raises(BundleError, match=f"{part.name}.*expected role"):
                    manifest_file.parse(resealed(data))


def test_a_part_no_bundle_has_is_refused():
    data = copy.deepcopy(GOOD[2])
    data["parts"].append({**data["parts"][0], "name": "experts/layer_009.hbx"})
    with pytest.raises(BundleError, match="layer_009.hbx"):
        manifest_file.parse(resealed(data))


def test_the_block_of_routers_has_the_size_of_the_model():
    """2 sparse layers, 4 experts, 32 numbers each, in float32."""
    data = copy.deepcopy(GOOD[2])
    part = {**data["parts"][0], "name": ROUTERS, "role": "trunk", "layer": None, "bytes": 4 * 2 * 4 * 32}
    data["parts"].append(part)
    assert manifest_file.parse(resealed(data)).part(ROUTERS).bytes == 1024
    for change, message in (({"bytes": 1020}, "expected 1024 bytes"), ({"layer": 0}, "expected role")):
        data["parts"][-1] = {**part, **change}
        with pytest.raises(BundleError, match=rf"routers\.bin.*{message}"):
            manifest_file.parse(resealed(data))


ORIGINAL = "original_max_position_embeddings"
LLAMA3 = {"factor": 2.0, ORIGINAL: 64.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"factor": 2.0, ORIGINAL: 64.0}
ROPE_LIES = {
    "linear, endless": ("linear", {"factor": 1e300}),
    "linear, nothing": ("linear", {}),
    "linear by zero": ("linear", {"factor": 0.0}),
    "linear, negative": ("linear", {"factor": -5.0}),
    "a factor that is a switch": ("linear", {"factor": True}),
    "dynamic by zero": ("dynamic", {"factor": 0.0}),
    "dynamic, too long": ("dynamic", {"factor": 4096.0, ORIGINAL: 65536.0}),
    "default with parameters": ("default", {"factor": 1e308, ORIGINAL: 1e308}),
    "proportional without a share": ("proportional", {}),
    "proportional, more than all": ("proportional", {"partial_rotary_factor": 1.5}),
    "proportional, stretched by zero": ("proportional", {"partial_rotary_factor": 0.5, "factor": 0.0}),
    "yarn without factor": ("yarn", {ORIGINAL: 64.0}),
    "yarn without context": ("yarn", {"factor": 2.0}),
    "yarn of zeros": ("yarn", {"factor": 0.0, ORIGINAL: 0.0}),
    "yarn, endless beta": ("yarn", {**YARN, "beta_fast": 1e300}),
    "yarn, tiny beta": ("yarn", {**YARN, "beta_slow": 1e-300}),
    "yarn, negative mscale": ("yarn", {**YARN, "mscale": 1.0, "mscale_all_dim": -14.4269504}),
    "yarn, attention factor": ("yarn", {**YARN, "attention_factor": 0.0}),
    "yarn, truncate as a number": ("yarn", {**YARN, "truncate": 2.0}),
    "llama3 without band": ("llama3", {**LLAMA3, "high_freq_factor": 1.0}),
    "llama3, one missing": ("llama3", {k: v for k, v in LLAMA3.items() if k != "low_freq_factor"}),
    "a parameter of another kind": ("linear", {"factor": 2.0, "beta_fast": 1.0}),
}


def with_rope(version: int, **changes: object) -> bytes:
    data = copy.deepcopy(GOOD[version])
    model = data["model"]
    for rope in [model["rope"]] if version == 1 else [layer["attention"]["rope"] for layer in model["layers"]]:
        rope.update(changes)
    return resealed(data)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("lie", ROPE_LIES)
def test_rotary_parameters_that_cannot_be_computed_with_are_refused(version, lie):
    kind, params = ROPE_LIES[lie]
    with pytest.raises(BundleError, match=r"\.rope\.params"):
        manifest_file.parse(with_rope(version, kind=kind, params=params))


@pytest.mark.parametrize("version", VERSIONS)
def test_dynamic_scaling_needs_more_than_one_pair(version):
    with pytest.raises(BundleError, match="dim"):
        manifest_file.parse(with_rope(version, kind="dynamic", dim=2, params={"factor": 2.0}))


def works(manifest: Manifest) -> None:
    """Whatever the runtime computes from a manifest before it opens a part."""
    limit = manifest.model.context_limit
    assert 1 <= limit <= MAX_CONTEXT
    assert plan_trunk_bytes(manifest) >= 0
    for name in required_parts(manifest):
        part = manifest.part(name)
        assert (part.role, part.layer) == (role_of(name), layer_of(name))
    try:
        require_supported(manifest.model)
    except ConfigError:
        return
    rotary = Rotary(manifest.model.ropes[0], manifest.model.max_context)
    with np.errstate(all="raise", under="ignore"):
        for start, tokens in ((0, 3), (limit - 1, 1)):
            cos, sin = rotary.cos_sin(start, tokens)
            assert np.isfinite(cos).all()
            assert np.isfinite(sin).all()
    assert scratch_bytes(manifest.model, 16, limit) > 0


EDGES = [0, 2**-10, 2**16, 1e-3, 1e3, 1e6, 1e-300, MAX_CONTEXT, -1]
NUMBERS = st.floats(0.01, 100) | st.floats(1, 1e5) | st.floats(allow_nan=False) | st.sampled_from(EDGES)
OPTIONAL = {
    "default": [],
    "linear": [],
    "dynamic": [ORIGINAL],
    "llama3": [],
    "yarn": ["beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor"],
}
REQUIRED = {"default": [], "linear": ["factor"], "dynamic": ["factor"], "llama3": list(LLAMA3), "yarn": list(YARN)}


@st.composite
def ropes(draw):
    kind = draw(st.sampled_from(sorted(OPTIONAL)))
    names = [*REQUIRED[kind], *draw(st.lists(st.sampled_from(OPTIONAL[kind] or [""]), unique=True))]
    params = {name: draw(NUMBERS) for name in names if name}
    if kind == "yarn" and draw(st.booleans()):
        params["truncate"] = draw(st.booleans())
    theta = draw(st.floats(1, 1e7) | st.sampled_from([1.0000001, 1e12]) | NUMBERS)
    return RopeSpec(kind, theta, 2 * draw(st.integers(1, 8)), params)


accepted_kinds = set()


@settings(max_examples=1500, deadline=None)
@given(rope=ropes(), max_context=st.integers(1, 1 << 17) | st.just(MAX_CONTEXT))
def any_rotary_embedding_is_refused_or_works(rope, max_context):
    try:
        manifest = manifest_file.parse(manifest_file.dump(small_manifest(rope=rope, max_context=max_context)))
    except BundleError:
        return
    accepted_kinds.add(rope.kind)
    works(manifest)


def test_any_rotary_embedding_is_refused_or_works():
    any_rotary_embedding_is_refused_or_works()
    assert accepted_kinds == {*OPTIONAL}  # not by refusing all of them


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=600, deadline=None)
@given(data=st.data())
def test_fuzzed_fields_never_crash(data):
    manifest = copy.deepcopy(GOOD[data.draw(st.sampled_from(VERSIONS))])
    for _ in range(data.draw(st.integers(1, 3))):
        target = manifest
        while True:
            keys = list(target) if isinstance(target, dict) else list(range(len(target)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(target[key], (dict, list)) and data.draw(st.booleans()):
                target = target[key]
                continue
            target[key] = data.draw(json_values)
            break
    try:
        accepted = manifest_file.parse(resealed(manifest))
    except BundleError:
        return
    works(accepted)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_never_crash(raw):
    with pytest.raises(BundleError):
        manifest_file.parse(raw)


def test_deep_nesting_and_size_are_bounded():
    with pytest.raises(BundleError):
        manifest_file.parse(b"[" * 200_000)
    with pytest.raises(BundleError, match="at most"):
        manifest_file.parse(b" " * (manifest_file.MAX_MANIFEST_BYTES + 1))
    for depth in range(700, 1000, 13):
        with pytest.raises(BundleError):
            manifest_file.parse(b'{"format":"hobbit-bundle","version":1,"x":' + b"[" * depth + b"]" * depth + b"}")


def test_missing_unfinished_and_wrong_paths_say_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="found nothing"):
        Bundle.open(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="found a file"):
        Bundle.open(tmp_path / "file")
    with pytest.raises(BundleError, match="not a bundle"):
        Bundle.open(tmp_path)
    (tmp_path / "export.journal").write_text("")
    with pytest.raises(BundleError, match="unfinished"):
        Bundle.open(tmp_path)
