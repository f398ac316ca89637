"""The self-check passes on a sound engine, fails loudly on a wrong one, and runs once per bundle and machine."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from bundle_copies import copy_of, replace_part

from edge_runtime import BundleError, Engine
from edge_runtime.backends.cpu.trunk.rope import Rotary
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.self_check import REFERENCE, load_reference, self_check
from edge_runtime.engine import api as engine
from edge_runtime.policy.routing import Router

OPTIONS = {"memory": "2GiB", "context": 128}


@pytest.mark.parametrize(("tier", "at_least"), [(16, 0.99999), (8, 0.9999), (4, 0.999), (2, 0.98)])
def test_a_sound_engine_passes(model_bundle, tier, at_least):
    with Engine.open(model_bundle, tier=tier, self_check=False, **OPTIONS) as sound:
        result = self_check(sound, sound.parts.bundle, tier)
    assert result.correlation > at_least
    assert result.tokens >= 4


def test_wrong_experts_are_noticed(model_bundle, monkeypatch):
    chosen = Router.route
    monkeypatch.setattr(Router, "route", lambda self, layer, logits, *more: chosen(self, layer, -logits, *more))
    with (
        Engine.open(model_bundle, self_check=False, **OPTIONS) as wrong,
        pytest.raises(BundleError, match="self-check: correlation"),
    ):
        self_check(wrong, wrong.parts.bundle, 8)


def test_wrong_positions_are_noticed(model_bundle, monkeypatch):
    right = Rotary.cos_sin
    monkeypatch.setattr(Rotary, "cos_sin", lambda rotary, start, *rest: right(rotary, 3 * start, *rest)[::-1])
    with (
        Engine.open(model_bundle, self_check=False, **OPTIONS) as wrong,
        pytest.raises(BundleError, match="self-check: correlation"),
    ):
        self_check(wrong, wrong.parts.bundle, 8)


def test_it_runs_once_per_bundle_and_tier(model_bundle, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    calls = []
    monkeypatch.setattr(engine, "check_once", lambda *args, **more: calls.append(engine_check(*args, **more)))
    from edge_runtime.bundle.self_check import check_once as engine_check

    for tier in (8, 8, 4):
        Engine.open(model_bundle, tier=tier, **OPTIONS).close()
    markers = list((tmp_path / "hobbit-edge" / "selfcheck").iterdir())
    assert len(calls) == 3
    assert len(markers) == 2
    before = {m: m.stat().st_mtime_ns for m in markers}
    Engine.open(model_bundle, tier=4, **OPTIONS).close()
    assert {m: m.stat().st_mtime_ns for m in markers} == before


def test_an_unwritable_state_folder_is_no_obstacle(model_bundle, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    Engine.open(model_bundle, tier=2, **OPTIONS).close()


def test_a_reference_of_the_wrong_shape_is_refused(model_bundle, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(model_bundle, copy)
    with Engine.open(copy, self_check=False, **OPTIONS) as sound:
        np.savez(copy / REFERENCE, token_ids=np.zeros(2, np.int32), logits=np.zeros((2, 5), np.float32))
        with pytest.raises(BundleError, match=r"reference\.npz"):
            load_reference(sound.parts.bundle)


STRANGER = """
import os, sys
from types import SimpleNamespace
from edge_runtime.bundle import self_check as selfcheck
from edge_runtime.bundle.manifest import Part

if os.geteuid() == 0:
    os.setgroups([]), os.setgid(54321), os.setuid(54321)
for name in ("HOME", "XDG_STATE_HOME", "STATE_DIRECTORY"):
    os.environ.pop(name, None)
if sys.argv[1]:
    os.environ["HOME"] = sys.argv[1]
runs = []
selfcheck.self_check = lambda *args, **more: runs.append(args) or selfcheck.SelfCheck(4, 1.0, 0.9, 0.0)
model = SimpleNamespace(longest_alike=None)
manifest = SimpleNamespace(model=model, bundle_id="0" * 64, parts=[Part(selfcheck.REFERENCE, "calibration", 1, "0" * 64, 0)])
for _ in range(2):
    selfcheck.check_once(None, SimpleNamespace(manifest=manifest), 8, "test")
print(len(runs))
"""


@pytest.mark.parametrize("home", ["locked", ""])
def test_a_home_that_is_locked_or_unknown_only_means_checking_each_time(tmp_path, home):
    """A user id without an account and without HOME, or with a HOME it may not look into."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    command = [sys.executable, "-c", STRANGER, str(locked) if home else ""]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    # where a person runs the tests, the account's own home may serve for the second case
    assert done.stdout.strip() == "2" if home or os.geteuid() == 0 else done.stdout.strip() in "12"


@pytest.mark.parametrize("policy", ["rate-distortion:max_kld=1", "skip:beta=0.9", "edgemoe:bits=2.5", "lossless"])
def test_a_first_start_under_a_lossy_policy_checks_the_bundle_not_the_policy(
    calibrated_bundle, monkeypatch, tmp_path, policy
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    ids, _ = load_reference(Bundle.open(calibrated_bundle))
    with Engine.open(calibrated_bundle, policy=policy, tier=8, **OPTIONS) as first:
        assert len(list((tmp_path / "hobbit-edge" / "selfcheck").iterdir())) == 1
        lossy, checked = first.logits(ids), first.lossless_logits(ids)
        assert first.parts.active.text == policy
    with Engine.open(calibrated_bundle, tier=8, **OPTIONS) as plain:
        assert np.array_equal(checked, plain.logits(ids))
        assert np.array_equal(lossy, plain.logits(ids)) == (policy == "lossless")


def test_damage_is_noticed_under_a_lossy_policy_too(calibrated_bundle, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    right = Rotary.cos_sin
    monkeypatch.setattr(Rotary, "cos_sin", lambda rotary, start, *rest: right(rotary, 3 * start, *rest)[::-1])
    with pytest.raises(BundleError, match="self-check: correlation"):
        Engine.open(calibrated_bundle, policy="rate-distortion:max_kld=1", **OPTIONS)


@pytest.mark.parametrize("context", [1, 3, 16])
def test_a_context_shorter_than_the_reference_checks_what_fits(model_bundle, monkeypatch, tmp_path, context):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    Engine.open(model_bundle, memory="2GiB", context=context).close()
    assert len(list((tmp_path / "hobbit-edge" / "selfcheck").iterdir())) == 1


IMPOSSIBLE = {
    "a token beyond the vocabulary": [0, 5000],
    "a negative token": [-1, 0],
    "no tokens": [],
    "many tokens": [0] * 65,
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_reference_tokens_the_model_does_not_have_are_a_fault_of_the_bundle(model_bundle, tmp_path, name):
    bundle = copy_of(model_bundle, tmp_path / "bundle")
    ids, raw = np.array(IMPOSSIBLE[name], np.int32), io.BytesIO()
    np.savez_compressed(raw, token_ids=ids, logits=np.zeros((len(ids), 4096), np.float32))
    replace_part(bundle, REFERENCE, raw.getvalue())
    with pytest.raises(BundleError, match=r"reference\.npz: expected 1 to 64 tokens below 4096"):
        Engine.open(bundle, **OPTIONS)
