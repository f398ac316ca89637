"""What an earlier or a later release wrote: it opens, or it is refused with the command that helps."""

from __future__ import annotations

import subprocess

import pytest
from bundle_copies import copy_of, read_manifest, write_manifest
from manifests import as_version1

from edge_runtime import BundleError, ConfigError, Engine, SamplingParams
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.state import state_folder
from edge_runtime.service.ops.warmup import verify_once

OPTIONS = {"memory": "1GiB", "context": 64, "tier": 4}


@pytest.fixture
def state(tmp_path, monkeypatch):
    """An empty state folder."""
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return state_folder()


def tokens(bundle):
    with Engine.open(bundle, **OPTIONS) as engine:
        return engine.generate("import os", SamplingParams(max_tokens=6, temperature=0)).token_ids


def test_a_bundle_of_the_format_before_says_the_same(model_bundle, tmp_path, state):
    old = copy_of(model_bundle, tmp_path / "old")
    write_manifest(old, as_version1(manifest_file.read(model_bundle)))
    assert read_manifest(old)["version"] == 1
    assert tokens(old) == tokens(model_bundle)


def test_a_bundle_of_a_later_format_is_refused_with_the_command(model_bundle, tmp_path, state):
    later = copy_of(model_bundle, tmp_path / "later")
    write_manifest(later, read_manifest(later) | {"version": 4, "created_by": "hobbit-export 9.0.0"})
    with pytest.raises(BundleError, match=r"expected 1 to 3, got '4'. Upgrade hobbit-edge to 9.0.0 or later.*hobbit-e"):
        Bundle.open(later)


def test_state_without_a_version_is_read(model_bundle, state):
    """The folder as builds before its version wrote it."""
    bundle = Bundle.open(model_bundle)
    assert verify_once(bundle, print)
    (state / "version").unlink()
    assert not verify_once(bundle, print)


def test_state_is_stamped_with_its_version(model_bundle, state):
    verify_once(Bundle.open(model_bundle), print)
    assert (state / "version").read_text() == "1\n"


@pytest.mark.parametrize("said", ["2", "twelve", ""])
def test_state_of_a_later_version_is_refused_and_the_command_helps(model_bundle, state, said):
    bundle = Bundle.open(model_bundle)
    verify_once(bundle, print)
    (state / "version").write_text(said)
    with pytest.raises(ConfigError, match="expected version 1 or older") as refused:
        tokens(model_bundle)
    command = str(refused.value).rpartition(": ")[2]
    assert command.startswith("mv ")
    subprocess.run(command, shell=True, check=True)
    assert tokens(model_bundle)
    assert (state.with_name("hobbit-edge.later") / "version").read_text() == said
