"""`hobbit list` and `hobbit rm`: what they say of whole, unfinished and damaged models, and what is gone afterwards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transfers import contents, pulled, small_bundle

from edge_runtime.__main__ import main
from edge_runtime.base.sizes import format_size
from edge_runtime.bundle import manifest_file


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("verbs"))


@pytest.fixture
def models(bundle: Path, tmp_path: Path) -> Path:
    """A folder with a whole model, one of fewer tiers, one that cannot be read, and a pull that was interrupted."""
    pulled(bundle, tmp_path, "org/whole")
    pulled(bundle, tmp_path, "small", tiers="4")
    shutil.copytree(tmp_path / "small", tmp_path / "torn")
    (tmp_path / "torn/manifest.json").write_text("{")

    def progress(*_: object) -> None:
        if size_of(tmp_path / ".unfinished") > 50_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pulled(bundle, tmp_path, "org/begun", progress=progress)
    return tmp_path


def size_of(folder: Path) -> int:
    return sum(len(raw) for raw in contents(folder).values())


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command that ends well says."""
    capsys.readouterr()
    assert main([*words]) == 0
    return capsys.readouterr().out


def listed(capsys: pytest.CaptureFixture[str], models: Path) -> dict[str, list[str]]:
    """The cells of each row of the table, by name; then the lines below it."""
    lines = said(capsys, "list", "--models", str(models)).splitlines()
    assert lines[0].split() == ["NAME", "SIZE", "TIERS", "TRUNK", "FAMILY", "ID"]
    return {line.split("  ")[0].strip(): [cell.strip() for cell in line.split("  ")[1:] if cell] for line in lines[1:]}


def test_the_table_has_size_tiers_and_what_is_wrong(models, bundle, capsys):
    rows = listed(capsys, models)
    whole, small = manifest_file.read(bundle), manifest_file.read(models / "small")
    part_bytes = size_of(models / "org/whole") - (models / "org/whole/manifest.json").stat().st_size
    assert rows["org/whole"] == [
        format_size(part_bytes), "2,4,6,8,bf16", "int8", "qwen3_moe", whole.bundle_id[:12],
    ]  # fmt: skip
    assert rows["small"][1:] == ["2,4", "int8", "qwen3_moe", small.bundle_id[:12]]
    assert rows["torn"] == ["cannot be read"]
    assert rows["org/begun"] == [format_size(size_of(models / ".unfinished")), "unfinished"]
    (fault,) = [name for name in rows if name.startswith("torn: ")]
    assert "manifest.json: expected JSON" in fault


def test_json_says_the_same(models, bundle, capsys):
    found = json.loads(said(capsys, "list", "--models", str(models), "--json"))
    assert found["folder"] == str(models)
    assert found["unfinished"] == [{"name": "org/begun", "bytes": size_of(models / ".unfinished")}]
    whole, small, torn = found["models"]
    manifest = manifest_file.read(bundle)
    assert whole == {
        "name": "org/whole", "path": str(models / "org/whole"), "bytes": sum(part.bytes for part in manifest.parts),
        "bundle_id": manifest.bundle_id, "family": "qwen3_moe", "tiers": manifest.experts.tiers, "trunk": "int8",
        "source": "checkpoint",
    }  # fmt: skip
    assert (small["name"], small["tiers"]) == ("small", [2, 4])
    assert small["bytes"] < whole["bytes"]
    assert torn.keys() == {"name", "path", "fault"}
    assert "manifest.json" in torn["fault"]


def test_an_empty_folder_and_none_are_said(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "none"):
        assert said(capsys, "list", "--models", str(folder)) == f"no models in {folder}\n"
        found = json.loads(said(capsys, "list", "--models", str(folder), "--json"))
        assert found == {"folder": str(folder), "models": [], "unfinished": []}


@pytest.mark.parametrize("name", ["org/whole", "torn", "org/begun"])
def test_what_is_deleted_is_gone_and_the_rest_stays(models, capsys, name):
    before, kept = listed(capsys, models), contents(models)
    place = models / ".unfinished" if name == "org/begun" else models / name
    size = size_of(place)
    assert said(capsys, "rm", name, "--models", str(models)) == f"{name}: deleted, {format_size(size)}\n"
    assert not place.exists()
    gone = place.relative_to(models).as_posix()
    assert contents(models) == {file: raw for file, raw in kept.items() if not file.startswith(f"{gone}/")}
    rows = listed(capsys, models)
    assert rows == {key: row for key, row in before.items() if key.partition(":")[0] != name}


def test_several_at_once_with_json_and_no_empty_folder_is_left(models, capsys):
    sizes = {name: size_of(models / name) for name in ("org/whole", "small", "torn")}
    sizes["org/begun"] = size_of(models / ".unfinished")
    found = json.loads(said(capsys, "rm", *sizes, "small", "--models", str(models), "--json"))
    assert found == {"removed": [{"name": name, "bytes": size} for name, size in sizes.items()]}
    assert list(models.iterdir()) == []


def test_what_is_not_there_is_refused_and_nothing_is_deleted(models, capsys):
    kept = contents(models)
    for name, expected in (
        ("smal", "no model of that name"), ("org/whole/experts", "lies inside the model"), ("../small", "name: expected"),
    ):  # fmt: skip
        capsys.readouterr()
        assert main(["rm", name, "--models", str(models)]) == 78
        assert expected in capsys.readouterr().err
    assert contents(models) == kept
