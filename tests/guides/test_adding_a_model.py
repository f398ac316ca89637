"""docs/adding-a-model.md, followed literally: its family is exported and run, and equals the one it is a copy of."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from families import make_checkpoint
from synthetic import write_safetensors

from edge_runtime import Engine
from edge_runtime.base.errors import ConfigError
from hobbit_export import arch
from hobbit_export.checkpoint import Checkpoint
from hobbit_export.cli import main as export

REPO = Path(__file__).parents[2]
RENAMED = {
    "mlp.experts": "moe.experts",
    "mlp.gate.": "moe.router.",
    "gate_proj": "in_gate",
    "up_proj": "in_up",
    "down_proj": "out",
}


def load(path: Path, name: str):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BLOCKS = load(Path(__file__).with_name("page.py"), "guide_page").blocks("adding-a-model.md")


@pytest.fixture
def adapter(tmp_path, monkeypatch):
    """Steps 1 and 2: the file, and its entry in ADAPTERS."""
    file = tmp_path / "toy_moe.py"
    file.write_text(BLOCKS[0])
    monkeypatch.setattr(arch, "ADAPTERS", dict(arch.ADAPTERS))
    exec(BLOCKS[1], {"ADAPTERS": arch.ADAPTERS, "toy_moe": load(file, "toy_moe")})
    return file


def renamed_copy(checkpoint: Path, out: Path) -> Path:
    """The same model as a checkpoint of the new family."""
    shutil.copytree(checkpoint, out, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((checkpoint / "config.json").read_text())
    config = {k: v for k, v in config.items() if k not in ("clip_qkv", "sliding_window")} | {"model_type": "toy_moe"}
    (out / "config.json").write_text(json.dumps(config))
    tensors = {}
    with Checkpoint.open(checkpoint) as opened:
        for name in opened.tensors:
            new = name
            for old, to in RENAMED.items():
                new = new.replace(old, to) if ".mlp." in name else new
            tensors[new] = opened.tensor_f32(name)
    write_safetensors(out / "model.safetensors", tensors)
    return out


@pytest.mark.oracle
def test_the_family_runs_and_gives_what_the_one_it_copies_gives(adapter, tmp_path):
    original = make_checkpoint("olmoe", tmp_path / "olmoe", dtype="float32")
    copy = renamed_copy(original, tmp_path / "toy")
    logits = {}
    for checkpoint in (original, copy):
        out = tmp_path / f"bundle-{checkpoint.name}"
        assert export([str(checkpoint), "--out", str(out), "--tiers", "8", "--trunk", "fp32"]) == 0
        with Engine.open(out, memory="1GiB", context=64) as engine:
            logits[checkpoint.name] = engine.logits([1, 2, 3, 200, 17])
    np.testing.assert_array_equal(logits["toy"], logits["olmoe"])


def test_without_the_entry_the_family_is_unknown():
    with pytest.raises(ConfigError, match="'toy_moe' is not supported yet. Supported families: "):
        arch.read_model({"model_type": "toy_moe"}, {})


def test_an_option_nobody_thought_of_is_refused(adapter):
    with pytest.raises(ConfigError, match="unsupported option 'new_trick'"):
        arch.read_model({"model_type": "toy_moe", "new_trick": 1}, {})


def test_the_file_passes_the_linter(adapter):
    settings = ["--config", str(REPO / "pyproject.toml")]
    for command in (["format", "--check"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *settings, str(adapter)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
