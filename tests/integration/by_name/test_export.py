"""hobbit-export of a model by name: the same bundle as from a folder, whatever the network does meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest
from fake_hub import COMMIT, FakeHub, Fault
from hub_exports import export, same_parts

from edge_runtime.bundle import manifest_file
from hobbit_export.cli import main
from hobbit_export.hub.blocks import BlockCache
from hobbit_export.hub.files import HubFiles
from hobbit_export.hub.transport import Transport
from hobbit_export.safetensors import read_header

pytestmark = pytest.mark.oracle


def test_a_bundle_by_name_is_the_one_from_a_folder(hub: FakeHub, from_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    assert export(out) == 0
    assert same_parts(out, from_folder)
    source, local = manifest_file.read(out).source, manifest_file.read(from_folder).source
    assert source.checkpoint == f"org/tiny@{COMMIT}"
    assert source.weights_sample_sha256 == local.weights_sample_sha256
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in from_folder.iterdir())
    assert not [p for p in (tmp_path / "cache").rglob("*") if "safetensors" in p.name and not p.name.endswith("json")]
    assert main(["org/tiny@v1", "--out", str(out), "--verify"]) == 0


def disk_bytes(folder: Path) -> int:
    """What everything below a folder takes, of files and folders that come and go meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total


def test_two_shards_at_most_are_on_the_drive(
    hub: FakeHub, checkpoint: Path, from_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    """Of blocks by their own count, and of all that an export puts there, by looking after every block that comes."""
    caches: list[BlockCache] = []
    made, fetch, seen = BlockCache.__init__, Transport.fetch, [0]

    def look(self, *args, **kwargs):
        yield from fetch(self, *args, **kwargs)
        seen.append(disk_bytes(tmp_path))

    def remember(self, *args, **kwargs):
        made(self, *args, **kwargs)
        caches.append(self)

    monkeypatch.setattr(BlockCache, "__init__", remember)
    monkeypatch.setattr(Transport, "fetch", look)
    # smaller blocks than shards, so that they come, go and are read ahead as those of a large model are
    monkeypatch.setattr(HubFiles.__init__, "__defaults__", (10_000,))
    assert export(tmp_path / "bundle") == 0
    sizes = [path.stat().st_size for path in checkpoint.glob("*.safetensors")]
    (cache,) = caches
    assert 2 * 10_000 <= cache.peak_bytes <= 2 * max(sizes) < sum(sizes)
    assert len(seen) > 2 * len(sizes)
    small = disk_bytes(tmp_path / "cache")  # configuration and tokenizer, in the hub's own cache
    assert max(seen) <= disk_bytes(tmp_path / "bundle") + small + 2 * max(sizes)
    assert same_parts(tmp_path / "bundle", from_folder)
    assert hub.leaked == []


FAULTS = {
    "busy": [("store", Fault(503)), ("store", Fault(429, headers={"Retry-After": "0"}))],
    "throttled hub": [("api", Fault(429, headers={"Retry-After": "0"})), ("resolve", Fault(502))],
    "cut": [("store", Fault(cut=100)), ("store", Fault(cut=0)), ("store", Fault(cut=9000))],
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS.keys())
def test_what_passes_is_waited_for(hub: FakeHub, from_folder: Path, tmp_path: Path, faults) -> None:
    for place, fault in faults:
        hub.faults[place].append(fault)
    assert export(tmp_path / "bundle") == 0
    assert same_parts(tmp_path / "bundle", from_folder)
    assert not any(hub.faults.values())


def test_addresses_that_expire_are_asked_for_again(hub: FakeHub, from_folder: Path, tmp_path: Path) -> None:
    hub.uses_of_an_address = 2
    assert export(tmp_path / "bundle") == 0
    assert same_parts(tmp_path / "bundle", from_folder)


def test_a_token_goes_to_the_hub_and_nowhere_else(hub: FakeHub, tmp_path: Path, monkeypatch, capsys) -> None:
    hub.token = "hf_secret"
    assert export(tmp_path / "bundle") == 78
    assert "private or gated" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert export(tmp_path / "bundle") == 0
    assert hub.leaked == []


def test_an_export_that_the_network_ended_resumes(hub: FakeHub, from_folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "bundle"
    assert export(tmp_path / "another") == 0
    tensors = sum(len(read_header(path)) for path in hub.folder.glob("*.safetensors"))
    hub.dies_after = 2 * hub.seen["store"] - tensors  # before the samples that come last, of every tensor one
    assert export(out) == 1
    assert "Run the same command again to resume" in capsys.readouterr().err
    assert not (out / "manifest.json").exists()
    hub.dies_after = None
    assert export(out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["steps_resumed"] > 0
    assert same_parts(out, from_folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [("org/none", "org/none: the server refused access|no such model"), ("org/tiny@v9", "no such model, revision")],
)
def test_a_model_or_revision_that_is_not_there(hub: FakeHub, tmp_path: Path, capsys, name: str, said: str) -> None:
    assert export(tmp_path / "bundle", name=name) == 78
    message = capsys.readouterr().err
    assert name.partition("@")[0] in message
    assert "no such model, revision or file (404)" in message or "refused access" in message


def test_offline_only_the_cache_is_asked(hub: FakeHub, from_folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    hub_library, constants = pytest.importorskip("huggingface_hub"), pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert export(tmp_path / "bundle") == 78
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub_library.snapshot_download("org/tiny", endpoint=hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = sum(hub.seen.values())
    assert export(tmp_path / "bundle") == 0
    assert same_parts(tmp_path / "bundle", from_folder)
    assert sum(hub.seen.values()) == asked
