"""Experts and routers of every form, from checkpoint to tokens: exported, run, streamed, measured and replayed."""

from __future__ import annotations

import fcntl
import json
import shutil
import tracemalloc
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from expert_families import FAMILIES, LAYERS, VOCABULARY, D, E, I, adapter, logits, make_model, write_checkpoint
from synthetic import write_safetensors

from edge_runtime import Engine, SamplingParams
from edge_runtime.base.errors import BundleError
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.calibration import read as read_calibration
from edge_runtime.bundle.record import record_layout
from edge_runtime.bundle.router_data import router_arrays, router_file
from edge_runtime.lab.simulator.recording import record
from edge_runtime.lab.simulator.replay import ReplaySettings, simulate
from edge_runtime.lab.simulator.trace import Trace
from hobbit_export import arch
from hobbit_export.checkpoint import Checkpoint
from hobbit_export.cli import main as export
from hobbit_export.router import router_memory_bytes
from hobbit_export.source import SourceModel

pytestmark = pytest.mark.oracle
LOGIT_TOLERANCE = 2e-3  # of the largest logit: that of the supported families
FLAGS = ("--tiers", "8,4,2,bf16", "--trunk", "fp32")
IDS = np.random.default_rng(1).integers(1, VOCABULARY, 72).tolist()


@pytest.fixture(scope="module")
def registered():
    """Every form is a family while this module runs."""
    for name in FAMILIES:
        arch.register(adapter(name))
    yield
    for name in FAMILIES:
        del arch.ADAPTERS[name]


@pytest.fixture(scope="module")
def bundles(registered, shared_folder):
    """name -> (torch model, checkpoint, bundle), exported once by whichever worker comes first."""

    @cache
    def make(name: str):
        model, folder = make_model(name), shared_folder / name
        folder.mkdir(exist_ok=True)
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "bundle" / "manifest.json").exists():
                write_checkpoint(name, model, folder / "checkpoint")
                flags = ["--out", str(folder / "bundle"), *FLAGS, "--calibrate"]
                assert export([str(folder / "checkpoint"), *flags]) == 0
        return model, folder / "checkpoint", folder / "bundle"

    return make


def greedy(model, ids: list[int], count: int) -> list[int]:
    out: list[int] = []
    for _ in range(count):
        out.append(int(logits(model, [*ids, *out])[-1].argmax()))
    return out


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_of_each_form_gives_the_logits_of_torch(bundles, name):
    model, _, bundle = bundles(name)
    want = logits(model, IDS)
    with Engine.open(bundle, tier="bf16", memory="1GiB", context=96, self_check=False) as engine:
        got = engine.logits(IDS)
        error = np.abs(got - want).max() / np.abs(want).max()
        print(f"{name}: max |dlogit| / max |logit| = {error:.2e}")
        assert error <= LOGIT_TOLERANCE
        tokens = engine.generate(IDS[:16], SamplingParams(max_tokens=64, ignore_eos=True)).token_ids
    assert tokens == greedy(model, IDS[:16], 64)


@pytest.mark.parametrize("name", FAMILIES)
def test_where_experts_are_changes_nothing(bundles, name):
    """All in memory, or streamed through the smallest cache: the same bits."""
    _, _, bundle = bundles(name)
    spec = Bundle.open(bundle).manifest.model
    slot = record_layout(spec, 4).tier_bytes(8)
    options = {
        "tier": 8,
        "memory": "1GiB",
        "context": 96,
        "self_check": False,
        "policy": "lossless",
        "prefill_chunk": 16,
    }
    found = []
    for more in ({}, {"expert_memory": spec.top_k * slot}, {"expert_memory": 9 * slot}):
        with Engine.open(bundle, **options, **more) as engine:
            tokens = engine.generate(IDS[:32], SamplingParams(max_tokens=24, ignore_eos=True)).token_ids
            found.append((tokens, engine.logits(IDS[:20], chunk=20).tobytes()))
            assert engine.parts.cache.counters.misses > 0 or not more
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_was_measured_and_every_kind_of_policy_works(bundles, tmp_path, name):
    """Calibration has every layer; runs under lossy policies are replayed with the same counts."""
    _, _, bundle = bundles(name)
    spec = Bundle.open(bundle).manifest.model
    calibration = read_calibration(bundle, spec)
    assert calibration.is_measured
    for layer in calibration.layers:
        assert max(layer.output_errors["4"]) < 0.6
        assert max(layer.output_errors["8"]) == 0
    slot = record_layout(spec, 4).tier_bytes(8)
    for policy in ("lossless", "hobbit", "cache-prior:lambda=0.3", "rate-distortion:max_kld=0.02"):
        trace = tmp_path / policy.partition(":")[0]
        options = {"tier": 8, "policy": policy, "eviction": "lru", "expert_memory": 10 * slot, "context": 96}
        with Engine.open(bundle, memory="1GiB", self_check=False, prefetch="off", **options) as engine:
            record(engine, [IDS], trace)
            ran = engine.parts.cache.counters
        found = simulate(Trace(trace), ReplaySettings(10, policy, "lru", calibration=calibration)).counters
        for what in ("hits", "misses", "bytes_read", "by_tier", "substituted", "skipped", "route_changed"):
            assert getattr(found, what) == getattr(ran, what), (policy, what)
        assert ran.misses > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_router_data_is_in_the_bundle_and_in_the_plan(bundles, capsys, name):
    _, checkpoint, bundle = bundles(name)
    manifest = Bundle.open(bundle).manifest
    parts = {part.name: part for part in manifest.of_role("router")}
    assert parts.keys() == {router_file(field) for field in router_arrays(manifest.model)}
    capsys.readouterr()
    assert export([str(checkpoint), "--out", str(bundle), *FLAGS, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    planned = {part["name"]: part for part in plan["parts"]}
    for part in manifest.parts:
        if part.role in ("router", "experts", "experts_bf16"):
            assert planned[part.name]["bytes"] == part.bytes, part.name
    assert sum(part.bytes for part in parts.values()) == plan["bytes"].get("router", 0)
    data = Bundle.open(bundle).router_data()
    if manifest.model.router.hashed_layers:
        assert data.hashed_experts.shape == (1, VOCABULARY, manifest.model.top_k)
    if manifest.model.router.selection_bias:
        assert data.selection_bias.shape == (LAYERS, E)


def test_what_is_left_out_is_reported_and_the_rest_is_an_error(bundles, tmp_path, capsys):
    _, checkpoint, _ = bundles("toy_gemma4")
    capsys.readouterr()
    flags = [str(checkpoint), "--out", str(tmp_path / "b"), "--tiers", "4", "--dry-run"]
    assert export([*flags, "--json"]) == 0
    (left_out,) = json.loads(capsys.readouterr().out)["left_out"]
    assert left_out == {
        "reason": "layers that predict several tokens, which are not run", "tensors": 2, "bytes": 4 * (4 * 8 + 8),
        "first": "mtp.0.norm.weight",
    }  # fmt: skip
    line = "left out: mtp.0.norm.weight and 1 more, 160 B: layers that predict several tokens, which are not run"
    assert export(flags) == 0
    assert line in capsys.readouterr().out.splitlines()
    assert export([*flags[:-1], "--trunk", "fp32"]) == 0
    assert line in capsys.readouterr().out.splitlines()

    extra = tmp_path / "extra"
    shutil.copytree(checkpoint, extra)
    with Checkpoint.open(checkpoint) as opened:
        tensors = {name: opened.tensor_f32(name) for name in opened.tensors}
    write_safetensors(extra / "model.safetensors", tensors | {"vision.patch.weight": np.zeros((4, 4), np.float32)})
    assert export([str(extra), *flags[1:]]) == 78
    assert "tensor 'vision.patch.weight': not part of a toy_gemma4 model" in capsys.readouterr().err


def test_a_manifest_that_describes_other_experts_is_refused(bundles, tmp_path):
    """The file says itself whether there are gates and biases; sizes alone need not differ."""
    _, _, bundle = bundles("toy_relu2_gated")
    header = Bundle.open(bundle).expert_header(0, 8)
    assert (header.gated, header.bias) == (True, True)
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    found = manifest_file.read(bundle)
    experts = replace(found.model.experts, bias=False)
    manifest_file.write(other, replace(found, model=replace(found.model, experts=experts)))
    with pytest.raises(BundleError, match=r"layer_000\.hbx: biases: expected False, got True"):
        Bundle.open(other).expert_header(0, 8)


def test_reading_router_data_takes_no_more_than_planned(bundles):
    _, checkpoint, _ = bundles("toy_deepseek_v4")
    source = SourceModel.open(checkpoint)
    with source.checkpoint:
        source.router_data()
        tracemalloc.start()
        source.router_data()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert 16 * VOCABULARY * source.spec.top_k < peak < router_memory_bytes(source.spec) + (16 << 10)


def test_records_take_what_their_form_needs(bundles):
    def size(name: str, tier: int) -> int:
        return Bundle.open(bundles(name)[2]).manifest.layout.tier_bytes(tier)

    assert size("toy_silu_ungated", 16) == 2 * 2 * D * I
    assert size("toy_gemma4", 16) == 3 * 2 * D * I
    assert size("toy_silu_ungated", 8) < size("toy_gemma4", 8)
