"""docs/adding-a-model.md, followed literally: its family is exported and run, and equals the one it is a copy of."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from families import make_checkpoint
from guide_page import blocks, load
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


BLOCKS = blocks("adding-a-model.md")


@pytest.fixture
def adapter(tmp_path, monkeypatch):
    """Steps 1 and 2: the file, and its registration."""
    file = tmp_path / "toy_moe.py"
    file.write_text(BLOCKS[0])
    monkeypatch.setattr(arch, "ADAPTERS", dict(arch.ADAPTERS))
    exec(BLOCKS[1], {"toy_moe": load(file, "toy_moe")})
    return file


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Step 2 for a package: what installing it would leave in a folder of the path."""
    (tmp_path / "toy_moe.py").write_text(BLOCKS[0])
    folder = tmp_path / "toy_package-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-package\nVersion: 1.0\n")
    (entry,) = blocks("adding-a-model.md", "toml")
    (folder / "entry_points.txt").write_text(entry.replace('project.entry-points."', "").replace('"', ""))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder / "entry_points.txt"
    sys.modules.pop("toy_moe", None)


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
    tensors["mtp.0.weight"] = np.zeros((2, 2), np.float32)
    write_safetensors(out / "model.safetensors", tensors)
    return out


@pytest.mark.oracle
@pytest.mark.usefixtures("adapter")
def test_the_family_runs_and_gives_what_the_one_it_copies_gives(tmp_path, capsys):
    original = make_checkpoint("olmoe", tmp_path / "olmoe", dtype="float32")
    copy = renamed_copy(original, tmp_path / "toy")
    logits = {}
    for checkpoint in (original, copy):
        out = tmp_path / f"bundle-{checkpoint.name}"
        assert export([str(checkpoint), "--out", str(out), "--tiers", "8", "--trunk", "fp32"]) == 0
        with Engine.open(out, memory="1GiB", context=64) as engine:
            logits[checkpoint.name] = engine.logits([1, 2, 3, 200, 17])
    np.testing.assert_array_equal(logits["toy"], logits["olmoe"])
    assert "left out: mtp.0.weight, 16 B: layers that predict several tokens" in capsys.readouterr().out


@pytest.fixture
def with_cases(tmp_path, installed):
    """Step 4: a copy of the tests, with the file of cases. The family is installed, in transformers too."""
    copy = tmp_path / "copy"
    command = blocks("adding-a-model.md", "console")[0].removeprefix("$ ").split()
    for path in (command[1], "pyproject.toml", *(f"tests/{p.name}" for p in (REPO / "tests").glob("*.py"))):
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / path, copy / path)
    shutil.copytree(REPO / "tests/families", copy / "tests/families")
    (copy / "tests/families/toy_moe.py").write_text(BLOCKS[2])
    (copy / "tools").symlink_to(REPO / "tools")
    return copy, command


@pytest.mark.oracle
def test_the_command_of_step_4_compares_its_cases_with_transformers(tmp_path, with_cases):
    copy, (program, *arguments) = with_cases
    assert program == "pytest"
    options = ["-p", "toy_in_transformers", "-p", "no:cacheprovider", "-v", f"--basetemp={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *arguments],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{copy / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    passed = re.findall(r"test_every_family_agrees_with_transformers\[(\w+)\] PASSED", done.stdout)
    assert passed == ["toy_moe", "toy_moe_bias"]


def test_without_the_entry_the_family_is_unknown():
    with pytest.raises(ConfigError, match="'toy_moe' is not supported yet. Supported families: "):
        arch.read_model({"model_type": "toy_moe"}, {})


@pytest.mark.usefixtures("adapter")
def test_a_family_is_registered_once(tmp_path):
    with pytest.raises(ConfigError, match="'toy_moe': is registered already"):
        arch.register(arch.ADAPTERS["toy_moe"])


@pytest.mark.usefixtures("installed")
def test_an_installed_package_offers_the_family():
    spec, names = arch.read_model({"model_type": "toy_moe"}, {})
    assert (spec.family, spec.num_experts) == ("toy_moe", 64)
    assert names.left_out
    assert "toy_moe" not in arch.ADAPTERS
    with pytest.raises(ConfigError, match="Supported families: .*mixtral, .*toy_moe"):
        arch.read_model({"model_type": "gpt2"}, {})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("toy_moe = nothing_here", "cannot be loaded: No module named 'nothing_here'"),
        ("toy_moe = toy_moe:nothing", "cannot be loaded: .*nothing"),
        ("toy_moe = json", "got one without MODEL_TYPE"),
        ("toy_moe = hobbit_export.arch.olmoe", "got one of 'olmoe'"),
    ],
)
def test_an_entry_point_that_offers_something_else_is_named(installed, entry, message):
    installed.write_text(f"[hobbit_edge.families]\n{entry}\n")
    with pytest.raises(ConfigError, match=f"family 'toy_moe', entry point .*{message}"):
        arch.read_model({"model_type": "toy_moe"}, {})


@pytest.mark.usefixtures("adapter")
def test_an_option_nobody_thought_of_is_refused():
    with pytest.raises(ConfigError, match="unsupported option 'new_trick'"):
        arch.read_model({"model_type": "toy_moe", "new_trick": 1}, {})


@pytest.mark.parametrize("block", [0, 2])
def test_the_files_pass_the_linter(tmp_path, block):
    file = tmp_path / "toy_moe.py"
    file.write_text(BLOCKS[block])
    settings = ["--config", str(REPO / "pyproject.toml")]
    for command in (["format", "--check"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *settings, str(file)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
