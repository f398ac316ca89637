"""A streamed step of `hobbit bringup` as an owner's machine runs it: experts come from the drive, and the figures say so."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from conftest import REPO

from edge_runtime.bundle.manifest_file import read
from edge_runtime.lab.bringup.runner import expert_memory, run_step
from edge_runtime.lab.bringup.steps import steps_of

SMALL = ("--repeat", "1", "--warmup", "0", "--prompt-tokens", "8", "--gen-tokens", "8", "--context", "64")


def test_a_quarter_of_the_experts_is_in_memory_and_the_others_are_read(model_bundle: Path, tmp_path: Path):
    (tmp_path / "demo-bundle").symlink_to(model_bundle)
    steps = {step.name: step for step in steps_of(None, tmp_path, REPO, power_modes=False)}
    found_by = {}
    for name in ("bench cpu", "bench cpu streamed"):
        step = replace(steps[name], command=(*steps[name].command, *SMALL))
        environment = {**os.environ, "HOBBIT_POWER_METER": f"auto:root={tmp_path}"}
        found = run_step(step, tmp_path, environment, 120)
        assert found["outcome"] == "passed", found
        found_by[name] = found["json"]["bench"]["decode"]["experts"]
    manifest = read(model_bundle)
    experts = len(manifest.model.sparse_layers) * manifest.model.num_experts
    assert expert_memory(model_bundle, 0.25) == experts // 4 * manifest.layout.tier_bytes(8)
    assert found_by["bench cpu"]["evicted"] == 0, "all of them fit"
    assert found_by["bench cpu streamed"]["evicted"] > 0
    assert found_by["bench cpu streamed"]["bytes_per_token"] > found_by["bench cpu"]["bytes_per_token"]
