"""The sentence that helps, for what people first give the commands that is no checkpoint, or no bundle."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import MODEL

from edge_runtime.__main__ import main as hobbit
from hobbit_export.cli import main as hobbit_export
from hobbit_export.journal import Journal

CONFIG = json.loads((MODEL / "config.json").read_text())


def exported(capsys: pytest.CaptureFixture[str], checkpoint: object, tmp_path: Path) -> str:
    assert hobbit_export([str(checkpoint), "--out", str(tmp_path / "out")]) == 78
    return capsys.readouterr().err


def checkpoint_of(tmp_path: Path, config: dict[str, object], *others: str) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for name in others:
        (folder / name).touch()
    return folder


def with_weights(folder: Path) -> Path:
    (folder / "model.safetensors").symlink_to(MODEL / "model.safetensors")
    return folder


def test_a_folder_with_only_config_json(tmp_path, capsys):
    err = exported(capsys, checkpoint_of(tmp_path, CONFIG), tmp_path)
    assert "The weights are missing: download the whole checkpoint" in err


def test_gguf_files(tmp_path, capsys):
    file, folder = tmp_path / "model.gguf", checkpoint_of(tmp_path, CONFIG, "model.gguf")
    assert "model.gguf: expected a GGUF file, found nothing" in exported(capsys, file, tmp_path)
    file.touch()
    assert "model.gguf: expected a GGUF file, got 0 bytes (truncated)" in exported(capsys, file, tmp_path)
    assert f"Give the file itself, of several splits the first: hobbit-export {folder / file.name}" in exported(
        capsys, folder, tmp_path
    )
    assert hobbit(["plan", str(file)]) == 78
    assert f"found a file. Make one: hobbit-export {file} --out BUNDLE" in capsys.readouterr().err


def test_a_name_on_the_hub_without_a_hub(tmp_path, capsys, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    err = exported(capsys, "allenai/OLMoE-1B-7B-0924", tmp_path)
    assert "allenai/OLMoE-1B-7B-0924: HF_HUB_OFFLINE is set, and the hub's cache on this machine does not hold" in err
    assert "expected a checkpoint folder" in exported(capsys, tmp_path / "none", tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "models by name need huggingface_hub. Install it" in exported(capsys, "allenai/OLMoE", tmp_path)


@pytest.mark.parametrize(
    "config", [{"model_type": "llama", "num_hidden_layers": 2}, {"model_type": "x", "num_experts": 0}]
)
def test_a_dense_model(tmp_path, capsys, config):
    err = exported(capsys, with_weights(checkpoint_of(tmp_path, config)), tmp_path)
    assert "is a dense model: it has no experts to stream. Supported families: " in err


@pytest.mark.parametrize("config", [{"n_routed_experts": 64}, {"text_config": {"num_local_experts": 8}}])
def test_a_family_that_is_not_supported(tmp_path, capsys, config):
    err = exported(capsys, with_weights(checkpoint_of(tmp_path, {"model_type": "new_moe", **config})), tmp_path)
    assert "'new_moe' is not supported yet. Supported families: " in err


def test_a_checkpoint_in_place_of_a_bundle(tmp_path, capsys):
    folder = checkpoint_of(tmp_path, CONFIG)
    for verb in (["run", "-p", "x"], ["plan"], ["verify"]):
        assert hobbit([*verb, str(folder)]) == 78
        assert f"a checkpoint, not a bundle. Make one: hobbit-export {folder} --out BUNDLE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ({"tiers": [4]}, "other --tiers: [8] then, [4] now"),
        ({"trunk": "int4", "files": [["a", 1, 2], ["b", 3, 4]]},
         "another checkpoint, or one that changed and another --trunk: int8 then, int4 now"),
        ({"config": "x" * 64}, "another config.json"),
        ({"program": "9"}, "another version of this program"),
        ({"calibrate": "y"}, "another --calibrate"),
    ],
)  # fmt: skip
def test_an_unfinished_export_of_something_else_is_one_sentence(tmp_path, now, says):
    then = {
        "journal": 1,
        "program": "1",
        "config": "c",
        "files": [["a", 1, 2]],
        "tiers": [8],
        "trunk": "int8",
        "calibrate": None,
    }
    Journal(tmp_path, then)
    with pytest.raises(Exception, match="unfinished export") as caught:
        Journal(tmp_path, then | now)
    end = "Repeat the first command to resume it, or start over with --no-resume."
    assert str(caught.value) == f"export.journal: the unfinished export here has {says}. {end}"


def test_more_threads_than_cpus_is_a_warning(model_bundle, caplog):
    from edge_runtime.config.limits import available_cpus

    cpus = available_cpus()
    flags = ["--memory", "1GiB", "--context", "128", "--threads"]
    assert hobbit(["plan", str(model_bundle), *flags, str(cpus)]) == 0
    assert "threads" not in caplog.text
    assert hobbit(["plan", str(model_bundle), *flags, str(cpus + 1)]) == 0
    assert f"threads: {cpus + 1} threads on {cpus} CPU" in caplog.text
