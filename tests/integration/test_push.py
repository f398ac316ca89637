"""`hobbit push`: what was pushed can be pulled, an interrupted push sends the rest, and a manifest comes last."""

from __future__ import annotations

import json
import shutil
from collections import deque
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar

import pytest
from bundle_copies import read_manifest, write_manifest
from bundle_server import Behaviour, cut, serving, status
from transfers import QUICK, contents, pulled, small_bundle

from edge_runtime.__main__ import main
from edge_runtime.base.errors import BundleError, ConfigError, HubError
from edge_runtime.transfer.push import PushOptions, push

OPTIONS = PushOptions(retrying=QUICK)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("push"), "8")


def other_bundle(bundle: Path, folder: Path) -> Path:
    copy = Path(shutil.copytree(bundle, folder / "other"))
    write_manifest(copy, read_manifest(copy) | {"created_by": "somebody else"})
    return copy


def test_what_was_put_can_be_pulled(bundle, tmp_path):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (bundle / "notes.txt").write_text("not a part")
    with serving(shelf, Behaviour(needs="Basic YTpi")) as server:
        address = server.url.replace("//", "//a:b@") + "/models/m"
        done = push(bundle, address, OPTIONS)
        assert server.requests[-3][:2] == ("PUT", "models/m/manifest.json"), "the manifest comes last"
        assert done.sent_bytes == done.bytes
        assert "a:b" not in done.target
        pulled(address, tmp_path / "models")
        sent = server.sent_bytes
        assert push(bundle, address, OPTIONS).sent_bytes == 0
        assert server.sent_bytes - sent == (bundle / "manifest.json").stat().st_size
    (bundle / "notes.txt").unlink()
    assert contents(tmp_path / "models/m") == contents(bundle) == contents(shelf / "models/m")


def test_an_interrupted_push_sends_the_rest(bundle, tmp_path):
    faults = {
        "experts/layer_000.hbx": deque([cut(10), status(503), status(429, Retry_After="0")]),
        "trunk/head.data": deque([status(500)] * 4),
    }
    with serving(tmp_path, Behaviour(faults=faults)) as server:
        with pytest.raises(HubError, match="trunk/head.data: the server said 500, 4 times in a row"):
            push(bundle, server.url, OPTIONS)
        assert not (tmp_path / "manifest.json").exists()
        done = push(bundle, server.url, OPTIONS)
        puts = [name for method, name, _ in server.requests if method == "PUT"]
    assert 0 < (done.sent_bytes or 0) < done.bytes
    assert puts.count("trunk/embed.bin") == 1
    assert contents(tmp_path) == contents(bundle)


def test_another_bundle_there_is_replaced_only_if_asked(bundle, tmp_path):
    other = other_bundle(bundle, tmp_path)
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    with serving(shelf) as server:
        push(bundle, server.url, OPTIONS)
        with pytest.raises(ConfigError, match="another bundle is there. Replace it with --replace"):
            push(other, server.url, OPTIONS)
        assert contents(shelf) == contents(bundle)
        push(other, server.url, PushOptions(replace=True, retrying=QUICK))
        deleted = [i for i, r in enumerate(server.requests) if r[0] == "DELETE"]
        assert [r[0] for r in server.requests[deleted[0] :]].count("PUT") == len(contents(other))
    assert contents(shelf) == contents(other)


def test_a_damaged_bundle_is_not_published(bundle, tmp_path):
    copy, shelf = Path(shutil.copytree(bundle, tmp_path / "copy")), tmp_path / "shelf"
    shelf.mkdir()
    raw = bytearray((copy / "trunk/embed.bin").read_bytes())
    raw[7] ^= 1
    (copy / "trunk/embed.bin").write_bytes(raw)
    with serving(shelf) as server, pytest.raises(BundleError, match="trunk/embed.bin: checksum does not match"):
        push(copy, server.url, OPTIONS)
    assert not (shelf / "manifest.json").exists()
    with pytest.raises(BundleError, match="trunk/embed.bin"):
        push(copy, str(tmp_path / "there"), OPTIONS)
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("methods", [("GET", "HEAD"), ("GET", "HEAD", "PUT")])
def test_servers_that_take_nothing_say_so(bundle, tmp_path, methods):
    (tmp_path / "manifest.json").write_bytes(b"{}")
    with serving(tmp_path, Behaviour(methods=methods)) as server:
        with pytest.raises(ConfigError, match=r"the server takes no DELETE \(405\)"):
            push(bundle, server.url, PushOptions(replace=True, retrying=QUICK))
        if "PUT" not in methods:
            (tmp_path / "manifest.json").unlink()
            with pytest.raises(ConfigError, match=r"the server takes no PUT \(405\). Allow it there"):
                push(bundle, server.url, OPTIONS)


def test_a_folder_is_filled_at_once_or_not(bundle, tmp_path, capsys):
    target = tmp_path / "stick/m"
    assert main(["push", str(bundle), str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sent_bytes"] > 0
    assert contents(target) == contents(bundle)
    assert sorted(p.name for p in target.parent.iterdir()) == ["m"]
    assert main(["push", str(bundle), str(target)]) == 0
    assert "was there already" in capsys.readouterr().out
    assert main(["push", str(other_bundle(bundle, tmp_path)), str(target)]) == 78
    assert "--replace" in capsys.readouterr().err
    assert main(["push", str(bundle), "s3://bucket/x"]) == 78


class FakeApi:
    """The four calls of huggingface_hub that a push makes."""

    calls: ClassVar[list[tuple[str, dict[str, Any]]]] = []
    there = False

    def __init__(self, **options: Any) -> None:
        pass

    def create_repo(self, repo: str, **options: Any) -> None:
        self.calls.append(("create_repo", {"repo": repo, **options}))

    def file_exists(self, repo: str, name: str, **options: Any) -> bool:
        return self.there

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload_folder", options))


def test_a_hub_gets_one_commit_of_the_parts_alone(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", FakeApi)
    monkeypatch.setattr(FakeApi, "calls", [])
    push(bundle, "hf://org/m@v2", OPTIONS)
    (made, repo), (uploaded, options) = FakeApi.calls
    assert (made, repo) == ("create_repo", {"repo": "org/m", "private": True, "exist_ok": True})
    assert (uploaded, options["repo_id"], options["revision"]) == ("upload_folder", "org/m", "v2")
    assert sorted(options["allow_patterns"]) == sorted(contents(bundle))
    monkeypatch.setattr(FakeApi, "there", True)
    with pytest.raises(ConfigError, match="hf://org/m: a bundle is there. Replace it"):
        push(bundle, "hf://org/m", OPTIONS)
    push(bundle, "hf://org/m", PushOptions(replace=True))
    deleted = FakeApi.calls[-1][1]["delete_patterns"]
    assert all(any(fnmatch(name, each) for each in deleted) for name in contents(bundle) if name != "manifest.json")
    assert not any(fnmatch(name, each) for each in deleted for name in ("README.md", "LICENSE", "docs/card.md"))


def test_a_hub_that_does_not_answer_is_said_so(bundle, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(HubError, match=r"hf://org/m: .*refused.* Run the same command again"):
        push(bundle, "hf://org/m", OPTIONS)


def test_a_hub_is_pulled_at_one_commit(bundle, tmp_path, monkeypatch):
    """`resolve` as hubs have it: the first answer names the commit, and all others are asked for at it."""
    root = tmp_path / "hub"
    commit = "a" * 40
    for revision in ("main", commit):
        shutil.copytree(bundle, root / f"org/tiny/resolve/{revision}")
    shutil.rmtree(root / "org/tiny/resolve/main/trunk")

    def named(answer: Any) -> None:
        answer.headers["X-Repo-Commit"] = commit

    with serving(root, Behaviour(always={"": named}, needs="Bearer hf_x")) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_x")
        done = pulled("org/tiny", tmp_path / "models", None)  # type: ignore[arg-type]
    assert done.name == "org/tiny"
    assert contents(tmp_path / "models/org/tiny") == contents(bundle)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE forbids it"):
        pulled("org/tiny", tmp_path / "models")
