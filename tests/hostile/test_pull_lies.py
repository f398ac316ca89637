"""Servers that lie about lengths, ranges, hashes or names: not one byte of theirs becomes visible."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections import deque
from pathlib import Path

import pytest
from bundle_copies import read_manifest, replace_part, write_manifest
from bundle_server import Answer, Behaviour, endless, flip, header, serving, status
from transfers import contents, pulled, small_bundle

from edge_runtime.base.checksum import crc32c
from edge_runtime.base.errors import BundleError, ConfigError, HobbitError, HubError
from edge_runtime.bundle.manifest_file import MAX_MANIFEST_BYTES
from edge_runtime.transfer.model_folder import ModelFolder

EXPERTS, TRUNK = "experts/layer_000.hbx", "trunk/embed.bin"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("lies"))


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def refused(folder: Path, models: Path, behaviour: Behaviour | None = None, **options: object) -> HobbitError:
    """Pull from a folder's server, expect a refusal, and that nothing of it is visible."""
    models = models / "models"
    with serving(folder, behaviour) as server, pytest.raises(HobbitError) as found:
        pulled(server.url, models, **options)
    assert not (models / "m").exists()
    assert list(ModelFolder(models).models()) == []
    return found.value


@pytest.mark.parametrize("name", [EXPERTS, TRUNK, "tokenizer/tokenizer.json", "experts/layer_001.bf16.hbx"])
def test_wrong_bytes_once_are_fetched_again(bundle, tmp_path, name):
    with serving(bundle, Behaviour(faults={name: deque([flip(50), flip(70)])})) as server:
        pulled(server.url, tmp_path)
    assert contents(tmp_path / "m") == contents(bundle)


@pytest.mark.parametrize(("name", "tiers"), [(EXPERTS, None), (EXPERTS, "4"), (TRUNK, None)])
def test_wrong_bytes_always_are_refused(bundle, tmp_path, name, tiers):
    err = refused(bundle, tmp_path, Behaviour(always={name: flip(60)}), tiers=tiers)
    assert isinstance(err, BundleError)
    assert name in str(err)


def test_other_bytes_of_a_segment_name_expert_and_segment(copy, tmp_path):
    raw = bytearray((copy / EXPERTS).read_bytes())
    raw[-1] ^= 1
    (copy / EXPERTS).write_bytes(raw)
    err = refused(copy, tmp_path)
    assert "experts/layer_000.hbx: expert 5 segment 3: expected CRC-32C" in str(err)
    assert "Nothing of it is used" in str(err)


def test_a_header_that_agrees_with_wrong_records_is_found_by_the_manifest(copy, tmp_path):
    """Header and records of another bundle: every CRC is right, the digest is not."""
    first, second = (copy / EXPERTS).read_bytes(), (copy / "experts/layer_001.hbx").read_bytes()
    forged = bytearray(second)
    forged[16:20] = first[16:20]
    size = int.from_bytes(forged[40:48], "little")
    forged[size - 4 : size] = crc32c(bytes(forged[: size - 4])).to_bytes(4, "little")
    (copy / EXPERTS).write_bytes(forged)
    for tiers in (None, "4"):
        err = refused(copy, tmp_path / f"models-{tiers}", tiers=tiers)
        assert "expected SHA-256" in str(err)
        assert EXPERTS in str(err)


@pytest.mark.parametrize(
    ("lie", "what"),
    [
        (header("Content-Length", "5"), "expected \\d+ bytes, the server sends 5|the connection ended"),
        (header("Content-Length", str(1 << 40)), "expected \\d+ bytes, the server sends 1099511627776"),
        (header("Content-Encoding", "gzip"), "expected the file as it is, the server sends it as 'gzip'"),
    ],
)
@pytest.mark.parametrize("name", [EXPERTS, TRUNK])
def test_lengths_and_codings(bundle, tmp_path, name, lie, what):
    err = refused(bundle, tmp_path, Behaviour(always={name: lie}))
    assert isinstance(err, (BundleError, HubError))
    assert re.search(what, str(err)), err


@pytest.mark.parametrize(
    "value", ["bytes 0-9/10", "bytes 5-4100/99999", "bytes */10", "nonsense", "bytes 0-1/9" + "9" * 40]
)
def test_ranges_that_were_not_asked_for(bundle, tmp_path, value):
    def lie(answer: Answer) -> None:
        if answer.status == 206:
            answer.headers["Content-Range"] = value

    err = refused(bundle, tmp_path, Behaviour(always={EXPERTS: lie}), tiers="4")
    assert f"the server sends {value[:80]!r}" in str(err)


def test_a_file_that_is_shorter_than_the_manifest_says(copy, tmp_path):
    raw = (copy / EXPERTS).read_bytes()
    (copy / EXPERTS).write_bytes(raw[:5000])
    assert EXPERTS in str(refused(copy, tmp_path, tiers="4"))
    (copy / TRUNK).write_bytes(b"")
    (copy / EXPERTS).write_bytes(raw)
    assert TRUNK in str(refused(copy, tmp_path))


@pytest.mark.parametrize("name", [EXPERTS, TRUNK])
def test_more_than_the_manifest_says(bundle, tmp_path, name):
    assert f"{name}: expected" in str(refused(bundle, tmp_path, Behaviour(ranges=False, always={name: endless})))


def test_compressed_bytes_are_no_bytes(bundle, tmp_path):
    def lie(answer: Answer) -> None:
        answer.body = gzip.compress(answer.body)
        answer.headers["Content-Length"] = str(len(answer.body))

    assert TRUNK in str(refused(bundle, tmp_path, Behaviour(always={TRUNK: lie})))


NAMES = [
    "../../etc/passwd",
    "/etc/passwd",
    "experts/../../x",
    "trunk/..",
    "a\\..\\b",
    "experts//x",
    ".hidden",
    "trunk/\n",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_out_are_refused_before_anything_is_fetched(copy, tmp_path, name):
    data = read_manifest(copy)
    data["parts"][0]["name"] = name
    write_manifest(copy, data)
    with serving(copy) as server, pytest.raises(BundleError, match="is not a plain path"):
        pulled(server.url, tmp_path / "models")
    assert [found for _, found, _ in server.requests] == ["manifest.json"]
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("size", [MAX_MANIFEST_BYTES + 1, 3 * MAX_MANIFEST_BYTES])
def test_a_manifest_without_end(copy, tmp_path, size):
    (copy / "manifest.json").write_bytes(b" " * size)
    with serving(copy) as server, pytest.raises(BundleError, match="expected at most 2097152 bytes"):
        pulled(server.url, tmp_path / "models")


def test_a_manifest_that_is_none(copy, tmp_path):
    (copy / "manifest.json").write_bytes(b"<html>sign in</html>")
    assert isinstance(refused(copy, tmp_path), BundleError)


def test_a_bundle_of_impossible_size_is_refused_by_the_free_space(copy, tmp_path):
    data = read_manifest(copy)
    part = next(part for part in data["parts"] if part["name"] == "trunk/layer_000.data")
    part["bytes"] = 1 << 49
    write_manifest(copy, data)
    with serving(copy) as server, pytest.raises(HobbitError, match="the drive has"):
        pulled(server.url, tmp_path / "models")
    assert [found for _, found, _ in server.requests] == ["manifest.json"]


def test_digests_of_cuts_that_lie(copy, tmp_path):
    data = read_manifest(copy)
    part = next(part for part in data["parts"] if part["name"] == EXPERTS)
    part["cuts"][1]["sha256"] = "0" * 64
    write_manifest(copy, data)
    assert "expected SHA-256 0000000000000000..." in str(refused(copy, tmp_path, tiers="4"))


@pytest.mark.parametrize(
    "cuts",
    [
        [{"num_segments": 1, "sha256": "0" * 64, "crc32c": 1}],
        [{"num_segments": n, "sha256": "0" * 64, "crc32c": 1} for n in (1, 2, 4)],
        [{"num_segments": n, "sha256": "x" * 64, "crc32c": 1} for n in (1, 2, 3)],
        [{"num_segments": n, "sha256": "0" * 64, "crc32c": -1} for n in (1, 2, 3)],
        [{"num_segments": n, "sha256": "0" * 64} for n in (1, 2, 3)],
    ],
)
def test_cuts_that_no_file_has(copy, tmp_path, cuts):
    data = read_manifest(copy)
    next(part for part in data["parts"] if part["name"] == EXPERTS)["cuts"] = cuts
    write_manifest(copy, data)
    assert "cut" in str(refused(copy, tmp_path))


def test_cuts_of_a_part_that_has_none(copy, tmp_path):
    data = read_manifest(copy)
    part = next(part for part in data["parts"] if part["name"] == TRUNK)
    part["cuts"] = [{"num_segments": n, "sha256": "0" * 64, "crc32c": 1} for n in (1, 2, 3)]
    write_manifest(copy, data)
    assert "expected num_segments []" in str(refused(copy, tmp_path))


def test_a_server_that_changes_the_bundle_midway(bundle, copy, tmp_path):
    """What came of the first bundle is not mixed with the second."""
    raw = bytearray((copy / TRUNK).read_bytes())
    raw[0] ^= 1
    with serving(copy, Behaviour(always={TRUNK: status(503)})) as server:
        with pytest.raises(HubError):
            pulled(server.url, tmp_path / "models")
        server.behaviour.always.clear()
        replace_part(copy, TRUNK, bytes(raw))
        pulled(server.url, tmp_path / "models")
    assert contents(tmp_path / "models/m") == contents(copy)


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x", "http://[::bad", "http:///x"]
)
def test_redirects_to_where_nobody_should_follow(bundle, tmp_path, target):
    behaviour = Behaviour(always={TRUNK: status(302, Location=target)})
    assert isinstance(refused(bundle, tmp_path, behaviour), HobbitError)


@pytest.mark.parametrize("proxy", ["http://", "host:port", "http://[::bad", "me:secret@:80"])
def test_a_proxy_that_is_no_address_is_named(bundle, tmp_path, monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(
        ConfigError, match=r"http_proxy: expected an address such as .* Correct this variable"
    ) as caught:
        pulled("http://hub.test/m", tmp_path / "models")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["huggingface.co", "https://", "http://x:port", "ftp://x"])
def test_a_hub_that_is_no_address_is_named(tmp_path, monkeypatch, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(ConfigError, match=r"HF_ENDPOINT: expected the address of a hub, .* Correct it, or unset it"):
        pulled("hf://org/name", tmp_path / "models")


def test_redirects_in_a_circle(bundle, tmp_path):
    behaviour = Behaviour(always={TRUNK: status(302, Location=f"/{TRUNK}")})
    assert "redirects more than 5 times" in str(refused(bundle, tmp_path, behaviour))


@pytest.mark.parametrize(
    "text", ["ftp://x/y", "http://", "https:///x", "http://[::bad", "http://x:port/y", "../no", "", "a b", "x/y/z/w"]
)
def test_origins_that_are_none(tmp_path, text):
    with pytest.raises(ConfigError, match="expected"):
        pulled(text, tmp_path)


@pytest.mark.parametrize("name", ["..", "../x", "/x", "a/../b", ".hidden", "a//b", "a/b/c/d", "x\n", "a" * 200, ""])
def test_names_of_models_stay_in_the_folder(bundle, tmp_path, name):
    folder = ModelFolder(tmp_path / "models")
    if name:
        with pytest.raises(ConfigError, match="name: expected"):
            pulled(bundle, tmp_path / "models", name)
    with pytest.raises(ConfigError, match="name: expected"):
        folder.remove(name)
    assert not (tmp_path / "models").exists()


def test_a_model_inside_a_model_is_refused(bundle, tmp_path):
    pulled(bundle, tmp_path, "a", tiers="2")
    with pytest.raises(ConfigError, match="lies inside the model a"):
        pulled(bundle, tmp_path, "a/experts", tiers="2")


def test_nothing_is_written_through_links(bundle, tmp_path):
    """Somebody put a link where an unfinished file would be."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    with serving(bundle, Behaviour(always={TRUNK: status(404)})) as server:
        with pytest.raises(ConfigError):
            pulled(server.url, tmp_path / "models", connections=1)
        (staging,) = [pull.path / "bundle" for pull in ModelFolder(tmp_path / "models").unfinished()]
        (staging / TRUNK).parent.mkdir(exist_ok=True)
        (staging / f"{TRUNK}.part").unlink(missing_ok=True)
        (staging / f"{TRUNK}.part").symlink_to(victim)
        server.behaviour.always.clear()
        with pytest.raises((OSError, HobbitError)):
            pulled(server.url, tmp_path / "models")
    assert victim.read_text() == "mine"
    assert json.loads((bundle / "manifest.json").read_text())["format"] == "hobbit-bundle"
