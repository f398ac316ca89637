"""hobbit-export of a model by name: the same bundle as from a folder, whatever a hub and the network do meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import families
import pytest
from fake_hub import COMMIT, FakeHub, Fault, serving
from gguf_files import write_gguf

from edge_runtime.base.errors import BundleError, HobbitError, HubError
from edge_runtime.bundle import manifest_file
from hobbit_export.cli import main
from hobbit_export.hub.blocks import BlockCache
from hobbit_export.hub.files import HubFiles
from hobbit_export.hub.listing import list_model
from hobbit_export.hub.name import HubName, hub_name
from hobbit_export.hub.transport import Transport
from hobbit_export.safetensors import read_header

pytestmark = pytest.mark.oracle
NAME = HubName("org/tiny", None)
WEIGHTS = "model-00001-of-"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.make_checkpoint("qwen3_moe", tmp_path_factory.mktemp("hub") / "tiny", sharded=True)


@pytest.fixture(scope="module")
def from_folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("folder") / "bundle"
    assert main([str(checkpoint), "--out", str(out), "--no-self-check"]) == 0
    return out


@pytest.fixture
def hub(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    pytest.importorskip("huggingface_hub")
    with serving(checkpoint, tmp_path / "cache", monkeypatch) as served:
        yield served


def export(out: Path, *flags: str, name: str = "org/tiny") -> int:
    return main([name, "--out", str(out), "--no-self-check", *flags])


def same_parts(one: Path, other: Path) -> bool:
    digests = [{p.name: p.sha256 for p in manifest_file.read(bundle).parts} for bundle in (one, other)]
    return digests[0] == digests[1]


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


def reading(hub: FakeHub, checkpoint: Path) -> tuple[HubFiles, str]:
    listing = list_model(NAME)
    return HubFiles(listing, checkpoint), next(n for n in listing.files if n.startswith(WEIGHTS))


LIES: list[tuple[str, Fault, type[HobbitError], str]] = [
    ("store", Fault(headers={"Content-Range": "bytes 0-7/9"}), BundleError, "expected bytes 0-99 of .*has bytes 0-7/9"),
    ("resolve", Fault(headers={"X-Repo-Commit": "b" * 40}), BundleError, "expected commit aaaa"),
    ("resolve", Fault(headers={"X-Linked-Size": "12"}), BundleError, "expected size .*has 12"),
    ("resolve", Fault(headers={"X-Linked-Etag": '"abc"'}), BundleError, "expected ETag .*has abc"),
    ("store", Fault(416), HubError, "the server said 416"),
]


@pytest.mark.parametrize(("place", "fault", "kind", "said"), LIES, ids=[lie[3] for lie in LIES])
def test_an_answer_that_is_not_what_was_listed(hub: FakeHub, checkpoint: Path, place, fault, kind, said) -> None:
    files, name = reading(hub, checkpoint)
    hub.faults[place].append(fault)
    with pytest.raises(kind, match=f"{name}: .*{said}"):
        files.read_into(name, 0, memoryview(bytearray(100)))


def test_another_file_under_the_same_address(hub: FakeHub, checkpoint: Path) -> None:
    files, name = reading(hub, checkpoint)
    files.read_into(name, 0, memoryview(bytearray(8)))
    hub.faults["store"].append(Fault(headers={"ETag": '"another"'}))
    with pytest.raises(BundleError, match="expected ETag"):
        files.read_into(name, 8, memoryview(bytearray(8)))


def test_a_server_that_stays_busy_is_given_up(hub: FakeHub, checkpoint: Path) -> None:
    for fault, said in [(Fault(503), "the server said 503"), (Fault(404), "has expired .404."), (Fault(cut=0), "")]:
        files, name = reading(hub, checkpoint)
        hub.faults["store"].clear()
        hub.faults["store"].extend([fault] * 20)
        with pytest.raises(HubError, match=f"{name}: .*{said}.*, 6 times in a row"):
            files.read_into(name, 0, memoryview(bytearray(8)))


def test_small_reads_come_in_order(hub: FakeHub, checkpoint: Path) -> None:
    files, name = reading(hub, checkpoint)
    raw = (checkpoint / name).read_bytes()
    wanted = [(name, at, 16) for at in range(0, 3000, 50)] + [(name, len(raw) - 4, 16)]
    assert list(files.read_many(wanted)) == [raw[at : at + count] for _, at, count in wanted]


def test_a_small_file_with_other_bytes_is_refused(hub: FakeHub, checkpoint: Path, tmp_path: Path, monkeypatch, capsys):
    info = hub.model_info()
    config = next(file for file in info["siblings"] if file["rfilename"] == "config.json")
    config["blobId"] = "0" * 40
    monkeypatch.setattr(hub, "model_info", lambda: info)
    assert export(tmp_path / "bundle") == 78
    assert "config.json: expected the digest 0000" in capsys.readouterr().err


def test_the_whole_source_may_be_kept(
    hub: FakeHub, checkpoint: Path, from_folder: Path, tmp_path: Path, capsys
) -> None:
    kept = tmp_path / "kept"
    assert export(tmp_path / "bundle", "--keep-source", str(kept)) == 0
    for path in checkpoint.glob("*.safetensors"):
        assert (kept / path.name).read_bytes() == path.read_bytes()
    assert same_parts(tmp_path / "bundle", from_folder)


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


def until_it_ends(hub: FakeHub, out: Path, before: int) -> None:
    """Export once to see how many requests it takes, then to `out` with a hub that dies so many before the last."""
    begun = hub.seen["store"]
    assert export(out.with_name(f"another_{out.name}")) == 0
    hub.dies_after = 2 * hub.seen["store"] - begun - before
    assert export(out) == 1
    hub.dies_after = None


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


def test_a_kept_file_that_changed_is_never_exported(hub: FakeHub, tmp_path: Path, capsys) -> None:
    """The hub's library fetches it anew where its time says so; where it does not, its digest tells."""
    kept, bundle = tmp_path / "kept", tmp_path / "bundle"
    assert export(bundle, "--keep-source", str(kept)) == 0
    shard = next(kept.glob("*.safetensors"))
    before, whole = shard.stat(), shard.read_bytes()
    shard.write_bytes(bytes(before.st_size))
    os.utime(shard, (before.st_atime + 60, before.st_mtime + 60))
    assert export(bundle, "--keep-source", str(kept), "--no-resume") == 0
    assert shard.read_bytes() == whole
    shard.write_bytes(bytes(before.st_size))
    os.utime(shard, (before.st_atime, before.st_mtime))
    capsys.readouterr()
    assert export(bundle, "--keep-source", str(kept), "--no-resume") == 78
    assert f"{shard.name}: expected the digest" in capsys.readouterr().err


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


def test_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_name("Qwen/Qwen3-30B-A3B") == HubName("Qwen/Qwen3-30B-A3B", None)
    assert hub_name("org/name:Q4/x-00001-of-00002.gguf") == HubName("org/name", None, "Q4/x-00001-of-00002.gguf")
    assert hub_name("org/name@v1:x.gguf") == HubName("org/name", "v1", "x.gguf")
    assert hub_name("org/name@refs/pr/3") == HubName("org/name", "refs/pr/3")
    for path in (
        "./org/name",
        "/org/name",
        "org",
        "org/name/",
        "a/b/c",
        "models/x.gguf",
        "org/name:x.bin",
        "org/..",
        "../name",
        "",
    ):
        assert hub_name(path) is None, path
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert hub_name("org/name") is None
    shutil.rmtree(tmp_path / "org")


@pytest.fixture
def ggufs(hub: FakeHub, checkpoint: Path, tmp_path: Path) -> Path:
    """The hub has a GGUF model in three splits, in a folder, beside another file."""
    folder = tmp_path / "served"
    (folder / "f32").mkdir(parents=True)
    write_gguf(checkpoint, folder / "f32" / "m.gguf", splits=10)
    (folder / "other.gguf").write_bytes(b"GGUF")
    hub.folder = folder
    return folder


def test_a_gguf_file_by_name(hub: FakeHub, ggufs: Path, tmp_path: Path, capsys) -> None:
    splits = sorted(path.name for path in (ggufs / "f32").iterdir())
    assert len(splits) == 3
    name, out = f"org/tiny:f32/{splits[0]}", tmp_path / "bundle"
    assert export(out, "--dry-run", "--json", name=name) == 0
    assert json.loads(capsys.readouterr().out)["source"] == f"org/tiny@{COMMIT}:f32/{splits[0]}"
    assert export(out, name=name) == 0
    local, kept = tmp_path / "local", tmp_path / "kept"
    assert export(local, name=str(ggufs / "f32" / splits[0])) == 0
    assert same_parts(out, local)
    assert {each for each, _, _ in hub.ranges} == {f"f32/{split}" for split in splits}
    assert export(tmp_path / "third", "--keep-source", str(kept), name=name) == 0
    assert same_parts(tmp_path / "third", local)
    assert sorted(path.name for path in (kept / "f32").iterdir()) == splits
    assert not (kept / "other.gguf").exists()


def test_a_gguf_file_that_is_not_there(hub: FakeHub, ggufs: Path, tmp_path: Path, capsys) -> None:
    assert export(tmp_path / "bundle", name="org/tiny:f32/n.gguf") == 78
    message = capsys.readouterr().err
    assert "there is no f32/n.gguf" in message
    assert "given as org/tiny:FILE, FILE being f32/m-00001-of-00003.gguf, other.gguf." in message
    assert export(tmp_path / "bundle") == 78
    assert "found no config.json in it. Its GGUF files are given as org/tiny:FILE" in capsys.readouterr().err
    assert export(tmp_path / "bundle", name="org/tiny:other.gguf") == 78
    assert "other.gguf: expected a GGUF file, got 4 bytes (truncated)" in capsys.readouterr().err
    assert export(tmp_path / "bundle", name="org/tiny:f32/m-00002-of-00003.gguf") == 78
    assert "is not the first of 3 splits. Give m-00001-of-00003.gguf" in capsys.readouterr().err


def test_keep_source_is_for_names(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "bundle")
    assert main([str(checkpoint), "--out", out, "--keep-source", str(tmp_path / "kept")]) == 78
    assert "--keep-source: " in capsys.readouterr().err
