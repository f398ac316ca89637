"""The manifest parser takes nothing on trust: every lie is a BundleError that names it, never a crash or a wrong value."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import GOOD, VERSIONS, resealed, small_manifest, works

from edge_runtime.base.errors import BundleError
from edge_runtime.base.spec import ExpertSpec
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.manifest import ExpertsInfo


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
