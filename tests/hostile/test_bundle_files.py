"""Only listed, regular files of the listed size are read: no link, pipe, device or stranger is ever opened."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from bundle_copies import replace_part, unlist
from manifests import resealed

from edge_runtime.base.errors import BundleError
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.files import open_regular, read_regular, unlisted
from edge_runtime.bundle.manifest import NAME as MANIFEST
from edge_runtime.bundle.self_check import REFERENCE, load_reference
from edge_runtime.engine.tokenizer import Tokenizer

PARTS = ["trunk/head.onnx", "experts/layer_000.hbx", "tokenizer/tokenizer.json", "calibration/experts.json"]


def replace_with_link(path: Path, elsewhere: Path) -> None:
    shutil.move(path, elsewhere / path.name)
    path.symlink_to(elsewhere / path.name)


def replace_with_pipe(path: Path, elsewhere: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_with_loop(path: Path, elsewhere: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def replace_with_folder(path: Path, elsewhere: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_with_device(path: Path, elsewhere: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def make_huge(path: Path, elsewhere: Path) -> None:
    path.unlink()
    with open(path, "wb") as file:
        file.truncate(1 << 40)


DAMAGES = [
    replace_with_link, replace_with_pipe, replace_with_loop, replace_with_folder, replace_with_device, make_huge
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", [*PARTS, "manifest.json"])
def test_a_part_that_is_no_plain_file_is_refused_at_once(bundle, tmp_path, name, damage):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    damage(bundle / name, elsewhere)
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        Bundle.open(bundle)


def test_a_folder_that_is_a_link_is_refused(bundle, tmp_path):
    shutil.move(bundle / "trunk", tmp_path / "trunk")
    (bundle / "trunk").symlink_to(tmp_path / "trunk")
    with pytest.raises(BundleError, match=r"trunk/.*link"):
        Bundle.open(bundle)


def test_the_bundle_itself_may_be_reached_through_a_link(bundle, tmp_path):
    (tmp_path / "alias").symlink_to(bundle)
    assert Bundle.open(tmp_path / "alias").manifest.parts


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json", "additional_chat_templates/x.jinja"])
def test_a_planted_tokenizer_file_is_not_read(bundle, name):
    unlist(bundle, *(f"tokenizer/{known}" for known in ("chat_template.jinja", "tokenizer_config.json")))
    path = bundle / "tokenizer" / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    planted = "planted" if name.endswith(".jinja") else json.dumps({"chat_template": "planted"})
    path.write_text(planted)
    opened = Bundle.open(bundle)
    assert not Tokenizer.from_bundle(opened).has_chat_template
    assert f"tokenizer/{name}" in unlisted(bundle, listed_names(opened))


def listed_names(bundle: Bundle) -> set[str]:
    return {MANIFEST, *(part.name for part in bundle.manifest.parts)}


def test_a_pipe_in_place_of_an_unlisted_file_hangs_nothing(bundle):
    unlist(bundle, "tokenizer/chat_template.jinja")
    path = bundle / "tokenizer/chat_template.jinja"
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    Tokenizer.from_bundle(Bundle.open(bundle))


def test_verify_names_what_is_not_listed(bundle):
    (bundle / "trunk/notes.txt").write_text("x")
    (bundle / "spare").symlink_to("/etc/passwd")
    command = [sys.executable, "-m", "edge_runtime", "verify", str(bundle), "--memory", "1GiB", "--context", "128"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "never read: spare, trunk/notes.txt" in done.stderr


def test_a_whole_bundle_lists_every_file(model_bundle):
    assert unlisted(model_bundle, listed_names(Bundle.open(model_bundle))) == []


def test_a_file_is_bounded_before_it_is_read(tmp_path):
    with open(tmp_path / "big", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError, match="big: expected at most 1024 bytes, got 1099511627776"):
        read_regular(tmp_path, "big", limit=1024)


def test_a_file_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    (tmp_path / "part").write_bytes(b"x")
    real = os.open

    def refuse(path, flags, *more, **other):
        if path == "part":
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *more, **other)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BundleError, match="part: cannot be opened: Permission denied"):
        open_regular(tmp_path, "part")


def test_an_error_of_the_drive_is_named(bundle, monkeypatch):
    opened = Bundle.open(bundle)
    part = opened.manifest.part("trunk/head.onnx")

    class Failing:
        def __init__(self, descriptor: int, mode: str) -> None:
            self.descriptor = descriptor

        def __enter__(self):
            return self

        def __exit__(self, *_):
            os.close(self.descriptor)

        def read(self, size=-1):
            raise OSError(5, "Input/output error")

        readinto = read

    monkeypatch.setattr(os, "fdopen", Failing)
    with pytest.raises(BundleError, match=r"trunk/head\.onnx: cannot be read: Input/output error"):
        opened.check_part(part)
    with pytest.raises(BundleError, match=r"trunk/head\.onnx: cannot be opened or read: Input/output error"):
        opened.read_part(part, limit=1 << 30)


def test_a_part_that_was_read_is_not_summed_again(bundle):
    path = bundle / "tokenizer" / "tokenizer.json"
    opened = Bundle.open(bundle)
    opened.read_part(opened.manifest.part("tokenizer/tokenizer.json"), limit=1 << 30)
    size = path.stat().st_size
    path.unlink()
    path.write_bytes(bytes(size))
    opened.check_unread(["tokenizer"])
    with pytest.raises(BundleError, match=r"tokenizer/tokenizer\.json: checksum does not match"):
        Bundle.open(bundle).check_unread(["tokenizer"])


@pytest.mark.parametrize(
    "raw",
    [b"[" * 100_000, b'{"a":' * 2000 + b"1" + b"}" * 2000, b'{"k": "' + b"\\" * 101 + b'"}', b" " * (3 << 20)],
    ids=["brackets", "objects", "quotes", "long"],
)
def test_a_manifest_is_bounded_before_it_is_parsed(raw):
    with pytest.raises(BundleError, match=r"manifest\.json"):
        manifest_file.parse(raw)


def test_brackets_in_strings_are_no_nesting():
    with pytest.raises(BundleError, match="format: expected"):
        manifest_file.parse(json.dumps({"text": "[{" * 100 + '\\"' + "]"}).encode())


def test_messages_about_a_huge_key_are_short(bundle):
    path = bundle / "manifest.json"
    data = json.loads(path.read_bytes())
    data["k" * 1_000_000] = 1
    with pytest.raises(BundleError, match="unknown key") as caught:
        manifest_file.parse(resealed(data))
    assert len(str(caught.value)) < 300


def test_an_archive_that_unpacks_to_gigabytes_is_refused(bundle):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("logits.npy", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    assert len(raw.getvalue()) < 1 << 20
    replace_part(bundle, REFERENCE, raw.getvalue())
    with pytest.raises(BundleError, match=r"reference\.npz: cannot be read: expected at most \d+ bytes unpacked"):
        load_reference(Bundle.open(bundle))


@pytest.mark.parametrize(
    "name", ["trunk/layer_000.data", "trunk/embed.bin", "calibration/experts.json", "manifest.json"]
)
def test_a_sparse_giant_of_the_listed_size_is_refused_before_it_is_hashed(bundle, name):
    """Its checksum may be true: nobody gets as far as comparing it."""
    make_huge(bundle / name, bundle)
    with pytest.raises(
        BundleError, match=rf"{name}: expected a file with content, found 1099511627776 bytes of nothing"
    ):
        open_regular(bundle, name, 1 << 40)


def test_a_large_file_with_content_is_no_giant(tmp_path):
    with open(tmp_path / "part", "wb") as file:
        file.truncate(1 << 30)
        for at in range(0, 1 << 30, 1 << 27):
            os.pwrite(file.fileno(), b"x" * (1 << 20), at)
    os.close(open_regular(tmp_path, "part", 1 << 30))
