"""Rotary parameters of a manifest: those nobody can compute with are refused, and all others work."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import GOOD, VERSIONS, resealed, small_manifest, works

from edge_runtime.base.errors import BundleError
from edge_runtime.base.spec import MAX_CONTEXT, RopeSpec
from edge_runtime.bundle import manifest_file

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
