"""Checksums of a release are signed so that anybody can verify them, and a page says how."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys

import pytest
from conftest import REPO

sys.path.insert(0, str(REPO / "tools/release"))

import common
import signing


@pytest.fixture
def to_sign(tmp_path, monkeypatch):
    """A folder with something to sign, and two keys; the first one's owner may sign."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed; signatures were NOT checked")
    keys = [tmp_path / "key", tmp_path / "another"]
    for key in keys:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, capture_output=True)
    (tmp_path / "signers").write_text(f"{signing.SIGNER} {keys[0].with_suffix('.pub').read_text()}")
    monkeypatch.setattr(signing, "SIGNERS", tmp_path / "signers")
    out = tmp_path / "out"
    out.mkdir()
    (out / "file").write_text("content")
    return out, *map(str, keys)


def test_checksums_are_signed_so_that_anyone_can_verify(to_sign):
    out, key, another = to_sign
    signing.write_sums(out, key)
    assert (out / "SHA256SUMS").read_text() == f"{hashlib.sha256(b'content').hexdigest()}  file\n"
    signing.check_signature(out)
    with (out / "SHA256SUMS").open("a") as sums:
        sums.write("0" * 64 + "  more\n")
    with pytest.raises(common.Failed, match="not by a key of signers"):
        signing.check_signature(out)
    signing.write_sums(out, another)
    with pytest.raises(common.Failed, match="not by a key of signers"):
        signing.check_signature(out)


def test_a_tag_is_not_published_unsigned(to_sign):
    out, key, _ = to_sign
    signing.write_sums(out, None)
    with pytest.raises(common.Failed, match="A tag needs --key"):
        signing.check_signature(out)
    signing.write_sums(out, key)
    signing.SIGNERS.unlink()
    with pytest.raises(common.Failed, match="expected the public key of who signs"):
        signing.check_signature(out)


def test_a_page_that_says_how_to_verify_names_what_signs():
    (command,) = re.findall(r"^\$ (ssh-keygen .*)$", (REPO / "docs/releasing.md").read_text(), re.MULTILINE)
    for words in (f"-f {signing.SIGNERS.relative_to(REPO)}", f"-I {signing.SIGNER} ", f"-n {signing.SIGNED_AS} "):
        assert words in command
