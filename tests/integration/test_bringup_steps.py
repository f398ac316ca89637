"""Steps of `hobbit bringup` as an owner's machine runs them: processes of their own, without a power meter."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from edge_runtime.lab.bringup.runner import run_step
from edge_runtime.lab.bringup.steps import Step, steps_of


def test_a_benchmark_needs_no_power_meter(model_bundle: Path, tmp_path: Path):
    steps: dict[str, Step] = {step.name: step for step in steps_of(model_bundle, tmp_path, None, power_modes=False)}
    small = ("--repeat", "1", "--warmup", "0", "--prompt-tokens", "4", "--gen-tokens", "2", "--context", "64")
    for name in ("bench cpu", "plan"):
        more = small if name.startswith("bench") else ()
        step = replace(steps[name], command=(*steps[name].command, *more))
        environment = {**os.environ, "HOBBIT_POWER_METER": f"auto:root={tmp_path}"}
        found = run_step(step, tmp_path, environment, 120)
        assert found["outcome"] == "passed", found
    assert (tmp_path / "bench-cpu/report.json").is_file()


def test_a_benchmark_that_does_not_fit_says_what_and_how_much(model_bundle: Path, tmp_path: Path):
    steps = {step.name: step for step in steps_of(model_bundle, tmp_path, None, power_modes=False)}
    step = replace(steps["bench cpu"], command=(*steps["bench cpu"].command, "--memory", "40MiB"))
    found = run_step(step, tmp_path, os.environ, 120)
    assert (found["outcome"], found["did_not_fit"]) == ("failed", True)
    assert found["why"].startswith("BudgetError: memory: budget 40.0 MiB is below the floor ")
    assert "Raise --memory to " in found["why"]
