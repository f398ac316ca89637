"""Wrong bytes in the right form are found by --verify, also those that came before an interruption."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fake_hub import FakeHub
from hub_exports import export, same_parts, until_it_ends

from edge_runtime.base.errors import HubError
from hobbit_export.cli import main
from hobbit_export.hub.files import HubFiles
from hobbit_export.safetensors import read_header

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (1, "the bytes from 0 on came twice, and were not the same"),
        (10**6, "expected the digest .* that the hub states"),
    ],
)
def test_a_store_that_sends_wrong_bytes_in_the_right_form_is_found_by_verify(
    hub: FakeHub, from_folder: Path, tmp_path: Path, capsys, times: int, said: str
) -> None:
    out = tmp_path / "bundle"
    assert main(["org/tiny", "--out", str(out), "--verify", "--json"]) == 0
    shards = len(list(hub.folder.glob("*.safetensors")))
    assert json.loads(capsys.readouterr().out)["source_files_verified"] == shards
    name = next(path.name for path in sorted(hub.folder.glob("*.safetensors")))
    hub.lies[name] = hub.digest(name)[0] - 1, times  # the last byte: of a weight
    assert main(["org/tiny", "--out", str(tmp_path / "another"), "--no-self-check", "--verify"]) == 78
    assert re.search(rf"{name}: {said}", capsys.readouterr().err)
    hub.lies.clear()
    assert main(["org/tiny", "--out", str(out), "--verify"]) == 0
    said = capsys.readouterr().out
    assert f"source: {shards} weight files read whole have the digests that the hub states. What" in said


def test_what_came_before_an_interruption_is_verified_after_it(
    hub: FakeHub, from_folder: Path, tmp_path: Path, capsys
) -> None:
    """A wrong byte comes, the network ends, and the resumed export reads nothing of that file again but its header."""
    shards, tensors = {}, 0
    for path in hub.folder.glob("*.safetensors"):
        shards[path.name], tensors = read_header(path), tensors + len(read_header(path))
    out, sound = tmp_path / "bundle", tmp_path / "sound"
    until_it_ends(hub, sound, before=tensors)  # before the samples that come last, of every tensor one
    capsys.readouterr()
    assert export(sound, "--verify", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["source_files_verified"] == len(shards)
    # how far it was follows from requests, whose number differs where reads ahead are merged
    assert report["steps_resumed"] > 0 < len(shards) <= report["steps_run"]
    assert same_parts(sound, from_folder)

    name, info = next((n, t) for n, found in shards.items() for t in found.values() if "experts.3.up" in t.name)
    hub.lies[name] = info.offset, 10**6
    until_it_ends(hub, out, before=tensors)
    hub.lies.clear()
    assert export(out, "--verify") == 78
    assert f"{name}: the bytes from 0 on came twice, and were not the same" in capsys.readouterr().err
    assert not (out / "manifest.json").exists()
    assert export(out, "--verify") == 78, "it stays so"
    assert export(out, "--verify", "--no-resume") == 0
    assert same_parts(out, from_folder)


def test_files_that_were_verified_are_not_read_again(
    hub: FakeHub, from_folder: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    out, shards = tmp_path / "bundle", {path.name: path.stat().st_size for path in hub.folder.glob("*.safetensors")}
    checked, check = [], HubFiles.check_whole

    def until_the_network_ends(self, name, progress):
        if len(checked) == len(shards) - 4:
            raise HubError("the network ended")
        check(self, name, progress)
        checked.append(name)

    with monkeypatch.context() as patch:
        patch.setattr(HubFiles, "check_whole", until_the_network_ends)
        assert export(out, "--verify") == 1
    assert not (out / "manifest.json").exists()
    capsys.readouterr()
    hub.ranges.clear()
    assert export(out, "--verify", "--json") == 0
    assert json.loads(capsys.readouterr().out)["source_files_verified"] == len(shards)
    whole = [name for name, first, stop in hub.ranges if (first, stop) == (0, shards[name])]
    assert sorted(whole) == sorted(set(shards) - set(checked))
    assert same_parts(out, from_folder)


def test_a_range_that_differs_from_an_earlier_runs_is_refused_at_once(hub: FakeHub, tmp_path: Path, capsys) -> None:
    out = tmp_path / "bundle"
    name, path = next((p.name, p) for p in sorted(hub.folder.glob("*.safetensors")))
    until_it_ends(hub, out, before=30)
    # another header, still one of the same tensors: white space behind it, as writers align it
    length = int.from_bytes(path.read_bytes()[:8], "little")
    hub.lies[name] = 8 + length - 1, 10**6
    assert export(out) == 78
    said = capsys.readouterr().err
    assert f"{name}: the bytes from 8 on came twice" in said or "header" in said
    hub.lies.clear()
    assert export(out) == 0
