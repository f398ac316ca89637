"""The manifest parser takes nothing on trust: every lie is a BundleError that names it, never a crash or a wrong value."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import resealed, small_manifest

from edge_runtime.errors import BundleError, ConfigError
from edge_runtime.format import manifest as manifest_io
from edge_runtime.format.bundle import Bundle

GOOD = json.loads(manifest_io.dump(small_manifest()))


def test_a_good_manifest_round_trips():
    manifest = manifest_io.parse(manifest_io.dump(small_manifest()))
    assert manifest_io.dump(manifest) == manifest_io.dump(small_manifest())


LIES = {
    "other format": (("format",), "zip", "format"),
    "future version": (("version",), 2, "version"),
    "version as bool": (("version",), True, "version"),
    "unknown key": (("extra",), 1, "unknown key 'extra'"),
    "unknown nested key": (("model", "hiden"), 1, "Did you mean 'hidden'"),
    "hidden not a multiple": (("model", "hidden"), 33, "model.hidden"),
    "huge vocabulary": (("model", "vocab_size"), 1 << 40, "vocab_size"),
    "negative experts": (("model", "num_experts"), -1, "num_experts"),
    "top_k above experts": (("model", "top_k"), 5, "top_k"),
    "no layers": (("model", "layers"), [], "layers"),
    "eos outside": (("model", "eos_token_ids"), [64], "token"),
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
}


@pytest.mark.parametrize("lie", LIES)
def test_each_lie_is_named(lie):
    path, value, message = LIES[lie]
    data = copy.deepcopy(GOOD)
    target = data
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(BundleError, match=message):
        manifest_io.parse(resealed(data))


def test_a_missing_or_repeated_part_is_named():
    data = copy.deepcopy(GOOD)
    gone = data["parts"].pop(0)
    with pytest.raises(BundleError, match=gone["name"]):
        manifest_io.parse(resealed(data))
    data["parts"] += [gone, gone]
    with pytest.raises(BundleError, match="twice"):
        manifest_io.parse(resealed(data))


def test_every_flipped_bit_is_noticed():
    raw = manifest_io.dump(small_manifest())
    accepted = 0
    for at in range(0, len(raw), 3):
        damaged = bytearray(raw)
        damaged[at] ^= 1 << (at % 8)
        try:
            # white space inside the JSON may change without changing what it says
            assert manifest_io.dump(manifest_io.parse(bytes(damaged))) == raw
            accepted += 1
        except BundleError:
            pass
    assert accepted < len(raw) // 30


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_fuzzed_fields_never_crash(data):
    manifest = copy.deepcopy(GOOD)
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
        manifest_io.parse(resealed(manifest))
    except BundleError:
        pass


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_never_crash(raw):
    with pytest.raises(BundleError):
        manifest_io.parse(raw)


def test_deep_nesting_and_size_are_bounded():
    with pytest.raises(BundleError):
        manifest_io.parse(b"[" * 200_000)
    with pytest.raises(BundleError, match="at most"):
        manifest_io.parse(b" " * (manifest_io.MAX_MANIFEST_BYTES + 1))


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
