"""hobbit-export --dry-run of a model by name: config.json and the index suffice, and what they cannot tell is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import published_checkpoint
import pytest
from fake_hub import COMMIT, FakeHub, serving
from quantised import FORMATS
from sharded_checkpoint import write_sharded
from synthetic import qwen3_config

from hobbit_export.cli import main
from hobbit_export.safetensors import read_header
from hobbit_export.shards import INDEX

pytestmark = pytest.mark.oracle
CONFIG = qwen3_config(64, 64, 4, 2)
SMALL = {"config.json", INDEX}
BY_INDEX = {"basis", "not_checked", "assumed", "index"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that gives configuration and index of its model and nothing else."""
    pytest.importorskip("huggingface_hub")
    with serving(write_sharded(tmp_path / "served", CONFIG), tmp_path / "cache", monkeypatch) as served:
        served.gives = SMALL
        yield served


def plan(out: Path, capsys: pytest.CaptureFixture[str], *flags: str, name: str = "org/tiny") -> dict[str, Any]:
    capsys.readouterr()
    assert main([name, "--out", str(out), "--dry-run", "--json", *flags]) == 0
    assert not out.exists()
    return dict(json.loads(capsys.readouterr().out))


def asked_for_files(hub: FakeHub) -> set[str]:
    return {path.rpartition("/")[2] for path in hub.asked if f"/resolve/{COMMIT}/" in path}


def sizes(found: dict[str, Any]) -> dict[str, int]:
    return {part["name"]: part["bytes"] for part in found["parts"]}


@pytest.mark.parametrize("status", [403, 404, 500])
def test_configuration_and_index_suffice(hub: FakeHub, tmp_path: Path, capsys, status: int) -> None:
    """The plan is the one that the headers give, of a hub that refuses everything else."""
    hub.else_status = status
    found = plan(tmp_path / "bundle", capsys)
    assert asked_for_files(hub) == SMALL
    assert hub.ranges == []
    assert found["source"] == f"org/tiny@{COMMIT}"
    assert (found["basis"], found["not_checked"]) == ("index", ["types and shapes of the tensors", "the tokenizer"])
    shards = list(hub.folder.glob("*.safetensors"))
    total = json.loads((hub.folder / INDEX).read_text())["metadata"]["total_size"]
    tensors = sum(len(read_header(path)) for path in shards)
    assert found["index"] == {"tensors": tensors, "files": 3, "bytes": total, "matched_bytes": total}
    assert found["assumed"] == {"dtype": "bf16", "why": "as config.json's torch_dtype says"}
    whole = plan(tmp_path / "bundle", capsys, name=str(hub.folder))
    assert (whole["basis"], whole["not_checked"]) == ("headers", [])
    assert {key: value for key, value in found.items() if key not in {*BY_INDEX, "source"}} == {
        key: value for key, value in whole.items() if key not in {*BY_INDEX, "source"}
    }
    assert main(["org/tiny", "--out", str(tmp_path / "bundle"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "assumed: plain tensors are bf16, as config.json's torch_dtype says" in said
    assert "not read, so not checked: types and shapes of the tensors and the tokenizer. --read-headers" in said


def test_what_is_asked_of_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    """By the command as people run it: once what the model is, then two files, and nothing for statistics."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    command = [sys.executable, "-m", "hobbit_export", "org/tiny", "--out", str(tmp_path / "b"), "--dry-run"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    of_files = [f"{verb} /org/tiny/resolve/{COMMIT}/{name}" for name in sorted(SMALL) for verb in ("HEAD", "GET")]
    assert hub.asked == ["GET /api/models/org/tiny", *of_files]


def test_headers_and_tokenizer_are_read_if_asked_for(hub: FakeHub, tmp_path: Path, capsys) -> None:
    whole = plan(tmp_path / "bundle", capsys, name=str(hub.folder))
    assert main(["org/tiny", "--out", str(tmp_path / "b"), "--dry-run", "--read-headers"]) == 78
    assert "there is no such model, revision or file (404)" in capsys.readouterr().err
    hub.gives = None
    found = plan(tmp_path / "bundle", capsys, "--read-headers")
    assert found | {"source": ""} == whole | {"source": ""}
    asked = [(name, first, stop) for name, first, stop in hub.ranges if name.endswith(".safetensors")]
    assert len(asked) == 2 * 3
    assert all(stop <= 8 + int.from_bytes((hub.folder / name).read_bytes()[:8], "little") for name, _, stop in asked)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_quantised_models_by_their_index(hub: FakeHub, tmp_path: Path, capsys, name: str) -> None:
    shutil.rmtree(hub.folder)
    write_sharded(hub.folder, CONFIG, name)
    whole = plan(tmp_path / "bundle", capsys, name=str(hub.folder))
    found = plan(tmp_path / "bundle", capsys)
    assert asked_for_files(hub) == SMALL
    assert sizes(found) == sizes(whole)
    assert sum(found["formats"].values()) == sum(whole["formats"].values()) > 0
    assert [(one["reason"], one["tensors"]) for one in found["left_out"]] == [
        (one["reason"], one["tensors"]) for one in whole["left_out"]
    ]
    assert found["index"]["matched_bytes"] is None


def test_an_index_says_where_its_type_is_another_one(hub: FakeHub, tmp_path: Path, capsys) -> None:
    shutil.rmtree(hub.folder)
    write_sharded(hub.folder, CONFIG, dtype="F32")
    found = plan(tmp_path / "bundle", capsys)
    assert found["assumed"] == {"dtype": "f32", "why": "as total_size says"}
    assert sizes(found) == sizes(plan(tmp_path / "bundle", capsys, name=str(hub.folder)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model.norm.weight": None}, "tensor 'model.norm.weight' is missing"),
        ({"model.layers.0.surprise": "model-00001-of-00003.safetensors"}, "tensor 'model.layers.0.surprise': not part"),
        ({"model.norm.weight": "another.safetensors"}, "file 'another.safetensors' is missing"),
        ({"model.layers.0.mlp.experts.0.up_proj.qweight": "model-00001-of-00003.safetensors"}, "looks quantised"),
    ],
)
def test_names_are_held_against_the_configuration(hub: FakeHub, tmp_path: Path, capsys, change, said: str) -> None:
    index = json.loads((hub.folder / INDEX).read_text())
    index["weight_map"] = {k: v for k, v in (index["weight_map"] | change).items() if v is not None}
    (hub.folder / INDEX).write_text(json.dumps(index))
    assert main(["org/tiny", "--out", str(tmp_path / "bundle"), "--dry-run"]) == 78
    assert said in capsys.readouterr().err


def test_a_model_of_one_file_has_that_files_header_for_an_index(hub: FakeHub, tmp_path: Path, capsys) -> None:
    shutil.rmtree(hub.folder)
    write_sharded(hub.folder, CONFIG, shards=1)
    (hub.folder / "model-00001-of-00001.safetensors").rename(hub.folder / "model.safetensors")
    (hub.folder / INDEX).unlink()
    hub.gives = {"config.json", "model.safetensors"}
    found = plan(tmp_path / "bundle", capsys)
    assert (found["basis"], found["not_checked"]) == ("headers", ["the tokenizer"])
    assert len(hub.ranges) == 2
    assert sizes(found) == sizes(plan(tmp_path / "bundle", capsys, name=str(hub.folder)))


def test_a_text_a_tokenizer_and_a_folder_for_the_source(hub: FakeHub, tmp_path: Path, capsys) -> None:
    """What needs the tokenizer is said to be unknown, unless one is given; nothing is downloaded to --keep-source."""
    kept = tmp_path / "kept"
    found = plan(tmp_path / "bundle", capsys, "--calibrate", "--keep-source", str(kept))
    assert not kept.exists()
    assert found["trunk"]["fitted_tokens"] is None
    assert "if the text is long enough, which is not known" in found["trunk"]["why"]
    hub.listed = {"towers.safetensors": 64 << 20}  # two files as large as that leave room for two trunks
    found = plan(tmp_path / "bundle", capsys, "--calibrate", "--tokenizer", str(hub.folder))
    whole = plan(tmp_path / "bundle", capsys, "--calibrate", name=str(hub.folder))
    assert (found["trunk"], sizes(found)) == (whole["trunk"], sizes(whole))
    assert found["not_checked"] == ["types and shapes of the tensors"]
    (hub.folder / "tokenizer.json").unlink()
    assert main(["org/tiny", "--out", str(tmp_path / "bundle"), "--dry-run"]) == 78
    assert "tokenizer.json: expected a fast tokenizer, found none" in capsys.readouterr().err


PUBLISHED = ["DeepSeek-V2-Lite", "gemma-4-26B-A4B-it", "gpt-oss-120b", "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"]


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_models_by_their_index(hub: FakeHub, tmp_path: Path, capsys, model: str) -> None:
    """As large as they are: the plan is that of headers, and takes as many requests as that of a small model."""
    published_checkpoint.write(model, tmp_path / model)
    whole = plan(tmp_path / "bundle", capsys, name=str(tmp_path / model))
    header = read_header(tmp_path / model / "model.safetensors")
    shutil.rmtree(hub.folder)
    hub.folder.mkdir()
    for path in (tmp_path / model).iterdir():
        if path.name != "model.safetensors":
            shutil.copy(path, hub.folder)
    total = sum(info.num_bytes for info in header.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict.fromkeys(header, "model-00001-of-00001.safetensors")}
    (hub.folder / INDEX).write_text(json.dumps(index))
    hub.listed = {"model-00001-of-00001.safetensors": total}
    found = plan(tmp_path / "bundle", capsys)
    assert asked_for_files(hub) == SMALL
    assert sizes(found) == sizes(whole)
    assert found["profiles"] == whole["profiles"]
    assert found["index"]["bytes"] == total
