"""Verified once, warm before ready."""

from __future__ import annotations

import shutil

import pytest

from edge_runtime import Engine
from edge_runtime.base.errors import BundleError
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.service.ops.warmup import verify_once, warm


@pytest.fixture
def own_bundle(model_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return shutil.copytree(model_bundle, tmp_path / "bundle")


def test_a_bundle_is_read_once_and_again_after_any_change(own_bundle):
    said = []
    assert verify_once(Bundle.open(own_bundle), said.append)
    assert said[0].startswith("verifying the bundle: ")
    assert not verify_once(Bundle.open(own_bundle), said.append)
    part = next(own_bundle.glob("experts/*"))
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    with pytest.raises(BundleError, match=part.name):
        verify_once(Bundle.open(own_bundle), said.append)
    with pytest.raises(BundleError):
        verify_once(Bundle.open(own_bundle), said.append)


def test_where_nothing_can_be_remembered_it_is_read_each_time(own_bundle, tmp_path):
    (tmp_path / "state").touch()
    assert verify_once(Bundle.open(own_bundle), lambda _: None)
    assert verify_once(Bundle.open(own_bundle), lambda _: None)


def test_warm_runs_every_layer(own_bundle):
    with Engine.open(own_bundle, memory="1GiB", context=64, tier=8, self_check=False) as engine:
        assert warm(engine) > 0
        lookups, _ = engine.parts.cache.residents.lookup_counts()
        assert lookups >= 2 * len(engine.spec.sparse_layers)
        residents = [engine.parts.cache.resident_tiers(layer).any() for layer in engine.spec.sparse_layers]
        assert not any(residents), "requests begin as they do after a reload"
