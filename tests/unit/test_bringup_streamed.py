"""The demo is measured with experts that come from the drive too, and the page of the hardware has the figures."""

from __future__ import annotations

import importlib
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.base.sizes import MIB
from edge_runtime.lab.bringup.runner import run_step
from edge_runtime.lab.bringup.steps import Step, steps_of

ROOT = Path(__file__).parents[2]
STREAMED = {"bench cuda streamed": "cuda", "bench cpu streamed": "cpu"}


def steps(bundle: Path | None, out: Path) -> dict[str, Step]:
    found = steps_of(bundle, out, ROOT, power_modes=False, conf=out / "none")
    return {step.name: step for step in found}


def test_the_demo_is_measured_streamed_on_gpu_and_cpu(tmp_path: Path):
    demo, names = steps(None, tmp_path), list(steps(None, tmp_path))
    assert names[names.index("bench cpu") + 1 :][:3] == [*STREAMED, "tune"]
    for name, backend in STREAMED.items():
        words = demo[name].command
        assert words[words.index("--backend") + 1] == backend
        assert (demo[name].expert_share, demo[name].needs) == (0.25, "demo")
        assert "streamed" in demo[name].folder
    assert not STREAMED.keys() & steps(tmp_path / "mine", tmp_path).keys()
    assert {step.expert_share for name, step in demo.items() if name not in STREAMED} == {0.0}


def test_the_page_says_what_the_demo_is_planned_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tensorrt.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    more = sum(steps(None, tmp_path)[name].minutes for name in STREAMED)
    page = (ROOT / "deploy/jetson-bringup.md").read_text()
    assert f"minutes, {more:g} more for the demo," in page.replace("\n", " ")
    assert "`bench cuda streamed`, `bench cpu streamed`" in page


def test_a_demo_that_is_no_bundle_is_a_result(tmp_path: Path):
    (tmp_path / "demo-bundle").mkdir()
    found = run_step(steps(None, tmp_path)["bench cpu streamed"], tmp_path, {}, 60)
    assert found["outcome"] == "not available"
    assert "manifest.json" in found["why"]


@pytest.fixture
def sent() -> dict[str, Any]:
    """What an owner sends: two benchmarks."""
    experts = {"lookups": 200, "hits": 50, "bytes_per_token": 3 * MIB, "read_gbps": 1.25, "by_tier": {"8": 200}}
    printed = {"timings": {"prompt_per_second": 90.5, "predicted_per_second": 12.345}}
    # the totals are the prompt's too: beside a speed of decoding they would be another figure
    printed |= {"experts": experts | {"hits": 190}, "bench": {"decode": {"experts": experts}}}
    done = {"outcome": "passed", "ended": "2026-12-01 10:00:00Z", "json": printed}
    cut = {**done, "outcome": "cut short", "json": {"timings": {"predicted_per_second": 2}, "experts": experts}}
    return {
        "format": 1, "about": {"version": "1"}, "machine": {"hardware": {"board": "NVIDIA Jetson Orin NX"}},
        "steps": {"doctor": {**done, "json": {}}, "bench cuda streamed": done, "bench cpu streamed": cut},
        "gpu_check": None,
    }  # fmt: skip


def test_what_was_streamed_is_on_the_page_of_the_hardware(tmp_path: Path, sent: dict[str, Any]):
    table = importlib.import_module("hardware_table")
    results = tmp_path / "benchmarks/results"
    results.mkdir(parents=True)
    assert "## Speeds" not in table.page(results), "nobody has sent any"
    file = tmp_path / "sent.json"
    file.write_text(json.dumps(sent))
    tool = runpy.run_path(str(ROOT / "tools/bringup_import.py"))
    assert tool["main"]([str(file), "--out", str(results / "bringup")]) == 0
    page = table.page(results)
    board = "| NVIDIA Jetson Orin NX | "
    assert f"{board}`bench cuda streamed` | 90.50 | 12.35 | 25.0 % | 3.00 | 1.25 |" in page.splitlines()
    unknown = " | ".join(["unknown"] * 3)
    assert f"{board}`bench cpu streamed` (cut short) | unknown | 2.00 | {unknown} |" in page.splitlines()
    assert "`doctor`" not in page
