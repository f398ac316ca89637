"""The trunk on the GPU for every family: logits of tiny models are the CPU backend's."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda.engines import assert_close, make_all_resident
from families import FAMILY_CASES, make_checkpoint
from token_launches import token_launches

from edge_runtime import Engine, SamplingParams
from edge_runtime.backends.cuda.driver import Graph, Kernel, Stream

FEW = {
    "mixtral_sliding_tied", "olmoe_clip_bias", "qwen2_moe_sparse_step_dynamic", "gpt_oss_all_full_truncated",
    "deepseek_v2_biases", "deepseek_v3", "ernie4_5_moe_floor_yarn", "qwen3_next", "kimi_linear",
    "granitemoehybrid_rope_tied", "nemotron_h_dense", "lfm2_moe_tied_bias", "gemma4", "phimoe_longrope_biases",
    "hunyuan_v1_moe",
}  # fmt: skip
"""Every kind of attention and every option once in `make test`; all cases in `make gpu-emulation`."""
CASES = [pytest.param(case, marks=() if case in FEW else pytest.mark.emulation) for case in FAMILY_CASES]
SETTINGS = {"context": 64, "prefill_chunk": 16, "threads": 1, "self_check": False, "memory": "4GiB", "tier": "bf16"}
pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("over_fake")]


def checkpoint_of(shared_folder: Path, case: str) -> Path:
    """Written once a run: two tests of a case may run side by side, and an export reads it."""
    folder = shared_folder / f"cuda-{case}"
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            make_checkpoint(case, folder)
    return folder


def backends(exported, shared_folder, case: str, trunk: str = "fp32"):
    """Both backends over a case's bundle; at the exact tier, since a last bit may turn the rounding of an activation."""
    bundle = exported(checkpoint_of(shared_folder, case), "--tiers", "8,bf16", "--trunk", trunk)
    for backend in ("cpu", "cuda:trunk=cuda"):
        with Engine.open(bundle, backend=backend, **SETTINGS) as engine:
            yield engine


@pytest.mark.parametrize("case", CASES)
def test_logits_are_the_cpu_backends(exported, shared_folder, case: str):
    ids, found = np.arange(1, 9, dtype=np.int32), []
    for engine in backends(exported, shared_folder, case):
        found.append(np.concatenate([engine.logits(ids[:6], chunk=4), engine.logits(ids[:2], chunk=1)]))
    assert_close(found[1], found[0])


@pytest.mark.parametrize("case", CASES)
def test_a_token_launches_what_the_arithmetic_counts(
    exported, shared_folder, case: str, monkeypatch: pytest.MonkeyPatch
):
    """tools/roofline.py counts from the model alone."""
    launched, start = [], Kernel.start

    def count(self: Kernel, *arguments: Any) -> None:
        launched.append(self.name)
        start(self, *arguments)

    monkeypatch.setattr(Kernel, "start", count)
    bundle = exported(checkpoint_of(shared_folder, case), "--tiers", "8,bf16", "--trunk", "fp32")
    with Engine.open(bundle, backend="cuda:trunk=cuda,graph=false", **SETTINGS) as engine:
        make_all_resident(engine)
        launched.clear()
        engine.logits([1], chunk=1)
        assert len(launched) == token_launches(engine.spec), ", ".join(launched)


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("case", ["gpt_oss_all_full_truncated", "ernie4_5_moe_floor_yarn", "phimoe_longrope_biases"])
def test_a_rule_of_its_own_is_applied_on_the_device(
    exported, shared_folder, case: str, graph: bool, monkeypatch: pytest.MonkeyPatch
):
    """A bias of the logits, a floor under the sum of weights, sparsemixer: the host learns nothing of a layer."""
    bundle = exported(checkpoint_of(shared_folder, case), "--tiers", "8,bf16", "--trunk", "fp32")
    ids, params, graphs = np.arange(1, 7, dtype=np.int32), SamplingParams(max_tokens=6, ignore_eos=True), []
    with Engine.open(bundle, backend="cpu", **SETTINGS) as engine:
        want, said = engine.logits(ids, chunk=4), engine.generate([1, 2, 3], params).token_ids
    launch = Graph.launch

    def count(self: Graph, stream: Stream) -> None:
        graphs.append(self)
        launch(self, stream)

    def refuse(tensor: object) -> None:
        raise AssertionError("the host asked for router logits")

    monkeypatch.setattr(Graph, "launch", count)
    with Engine.open(bundle, backend=f"cuda:trunk=cuda,graph={str(graph).lower()}", **SETTINGS) as engine:
        make_all_resident(engine)
        monkeypatch.setattr(engine.parts.backend.tensors, "to_host", refuse)
        assert_close(engine.logits(ids, chunk=4), want)
        assert engine.generate([1, 2, 3], params).token_ids == said
        assert bool(graphs) == graph


@pytest.mark.parametrize("trunk", ["int8", "int4"])
@pytest.mark.parametrize("case", ["deepseek_v3", "kimi_linear"])
def test_quantised_trunks_give_what_their_weights_stand_for(exported, shared_folder, case: str, trunk: str):
    """ONNX Runtime rounds activations to 8 bits where these kernels do not."""
    found = [engine.logits([1, 2, 3, 4], chunk=4) for engine in backends(exported, shared_folder, case, trunk)]
    assert np.abs(found[0] - found[1]).max() <= 0.05 * np.abs(found[0]).max()


@pytest.mark.parametrize("case", ["qwen3_next", "lfm2_moe_tied_bias"])
def test_states_go_on_from_where_prompts_part(exported, shared_folder, case: str):
    """The second prompt begins as the first, the third as the second one's answer: states are taken up, or made anew."""
    found = []
    for engine in backends(exported, shared_folder, case):
        params = SamplingParams(max_tokens=3, ignore_eos=True)
        first = engine.generate(list(range(1, 12)), params)
        second = engine.generate([*range(1, 9), 30, 31], params)
        third = engine.generate([*range(1, 9), 30, 31, *second.token_ids[:2], 5], params)
        found.append([first.token_ids, second.token_ids, third.token_ids])
    assert found[0] == found[1]
