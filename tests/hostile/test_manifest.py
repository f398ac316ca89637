"""The manifest parser takes nothing on trust: every lie is a BundleError that names it, never a crash or a wrong value."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import GOOD, VERSIONS, layer_of, resealed, role_of, small_manifest, works

from edge_runtime.backends.cpu.trunk.oracles import MIXERS
from edge_runtime.backends.cpu.trunk.supported import require_supported
from edge_runtime.base.errors import BundleError, ConfigError
from edge_runtime.base.spec import ExpertSpec, ModelSpec, mixer_kind
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.manifest import ExpertsInfo
from edge_runtime.bundle.part_names import ROUTERS


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


def of_floats() -> dict[str, Any]:
    """The plain data of a manifest of 4-bit floats."""
    manifest = small_manifest(experts=ExpertSpec(32, codes="fp4"))
    return json.loads(manifest_file.dump(replace(manifest, experts=ExpertsInfo(2, [2, 4]))))


def test_only_what_needs_it_has_the_latest_version():
    """Runtimes from before 4-bit floats know no key `codes`, and say what helps where the version is beyond them."""
    assert (GOOD[2]["version"], "codes" in GOOD[2]["model"]["experts"]) == (2, False)
    data = of_floats()
    assert (data["version"], data["model"]["experts"]["codes"]) == (3, "fp4")
    manifest = manifest_file.parse(resealed(copy.deepcopy(data)))
    assert (manifest.version, manifest.model.experts.codes) == (3, "fp4")
    assert json.loads(manifest_file.dump(manifest)) == data, "written again, as it was"


def test_a_version_that_is_not_the_models_is_refused():
    with pytest.raises(BundleError, match=r"version: expected 3 of experts\.codes 'fp4', got 2"):
        manifest_file.parse(resealed(of_floats() | {"version": 2}))
    with pytest.raises(BundleError, match=r"version: expected 2 of experts\.codes 'linear', got 3"):
        manifest_file.parse(resealed(GOOD[2] | {"version": 3}))


@pytest.mark.parametrize(
    ("writer", "advice"),
    [
        ("hobbit-export 0.7.1", "Upgrade hobbit-edge to 0.7.1 or later, which wrote it, or export"),
        ("hobbit-export 1.0.0rc1", "Upgrade hobbit-edge to 1.0.0rc1 or later"),
        ("hobbit-export 1.0.0; rm -rf", "Run the version that wrote it, or export"),
        (7, "Run the version that wrote it, or export"),
    ],
)
def test_a_bundle_from_the_future_names_the_runtime_that_reads_it(writer, advice):
    with pytest.raises(BundleError, match=re.escape(f"version: expected 1 to 3, got '4'. {advice}")):
        manifest_file.parse(resealed(GOOD[2] | {"version": 4, "created_by": writer, "keys": "unknown here"}))


LIES = {
    "other format": (("format",), "zip", "format"),
    "future version": (("version",), 4, "version: expected 1 to 3, got '4'. Run the version that wrote it"),
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


@pytest.fixture
def somebody_else():
    """Root may look anywhere: be somebody who may not, while a test runs."""
    if os.geteuid() == 0:
        os.seteuid(54321)
        yield
        os.seteuid(0)
    else:
        yield


def test_a_place_that_this_user_may_not_look_at_is_not_called_empty(tmp_path, request):
    """Neither `nothing` nor `not a bundle` would be true; both would send people looking for the wrong thing."""
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if folder.stat().st_uid == os.geteuid() and "pytest" in folder.as_posix():
            folder.chmod(0o755)
    bundle = tmp_path / "locked/bundle"
    bundle.mkdir(parents=True)
    (bundle / "manifest.json").write_text("{}")
    request.getfixturevalue("somebody_else")
    for mode, of in ((0o600, tmp_path / "locked"), (0o600, bundle)):
        _set_mode(of, mode)
        with pytest.raises(ConfigError, match=r"permission denied: user id \d+ may not look there"):
            Bundle.open(bundle)
        _set_mode(of, 0o755)
    with pytest.raises(BundleError):  # what lies there is no manifest
        Bundle.open(bundle)


def _set_mode(path, mode):
    """By its owner."""
    user = os.geteuid()
    os.seteuid(path.stat().st_uid if os.getuid() == 0 else user)
    path.chmod(mode)
    os.seteuid(user)
