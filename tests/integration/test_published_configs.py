"""The configurations of published models are read as they are: nothing in them is refused, sizes are the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import families
import published_checkpoint
import pytest

from edge_runtime.bundle import manifest_file
from hobbit_export.arch import ADAPTERS
from hobbit_export.cli import main


def supported(model: str) -> bool:
    return published_checkpoint.read(model, "config.json")["model_type"] in ADAPTERS


@pytest.mark.parametrize("model", [model for model in published_checkpoint.MODELS if supported(model)])
def test_a_dry_run_plans_the_model(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = published_checkpoint.read(model, "source.json")
    parameters = published_checkpoint.write(model, tmp_path / model)
    assert source["parameters"] in (parameters, None)
    assert main([str(tmp_path / model), "--out", str(tmp_path / "bundle"), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["num_experts_in_all"] * plan["expert_bytes_by_tier"]["8"] == pytest.approx(
        plan["bytes"]["experts"], rel=0.01
    )
    # 8.5 bits a weight with its scales, and little more: the trunk's largest part, the embedding, stays as it is
    assert 1.0 * parameters < plan["bytes"]["total"] < 1.3 * parameters
    assert plan["ignored_keys"] == []
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    "model", [model for model in published_checkpoint.MODELS if not supported(model)] or ["none is unsupported"]
)
def test_a_family_that_is_not_supported_yet_is_refused_by_name(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if model == "none is unsupported":
        pytest.skip(model)
    (tmp_path / "config.json").write_text(json.dumps(published_checkpoint.read(model, "config.json")))
    published_checkpoint.write_holes(tmp_path / "model.safetensors", {})
    assert main([str(tmp_path), "--out", str(tmp_path / "bundle"), "--dry-run"]) == 78
    said = capsys.readouterr().err
    assert "is not supported yet. Supported families: " in said
    assert "mean" not in said


def test_every_model_names_its_source() -> None:
    for model in published_checkpoint.MODELS:
        source = published_checkpoint.read(model, "source.json")
        assert source["model"].endswith(f"/{model}")
        assert source["source"]


@pytest.mark.oracle
def test_an_ignored_key_is_recorded_in_the_bundle_and_belongs_to_its_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = families.make_checkpoint("mixtral", tmp_path / "checkpoint"), tmp_path / "bundle"
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"surprise": 7}))
    command = [str(checkpoint), "--out", str(out), "--no-self-check"]
    assert main(command) == 78
    assert "unsupported option 'surprise' = 7" in capsys.readouterr().err
    assert main([*command, "--ignore-key", "surprise"]) == 0
    assert "ignored because you said so: config.json: surprise" in capsys.readouterr().out
    assert manifest_file.read(out).source.ignored_keys == ["surprise"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert main([*command, "--verify"]) == 78
    assert "configuration: expected" in capsys.readouterr().err
