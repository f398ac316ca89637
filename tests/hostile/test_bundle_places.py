"""A place without a bundle: what is there instead is said, or that this user may not look."""

from __future__ import annotations

import os

import pytest

from edge_runtime.base.errors import BundleError, ConfigError
from edge_runtime.bundle.bundle import Bundle


def test_missing_unfinished_and_wrong_paths_say_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="found nothing"):
        Bundle.open(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="found a file"):
        Bundle.open(tmp_path / "file")
    with pytest.raises(BundleError, match="not a bundle"):
        Bundle.open(tmp_path)
    (tmp_path / "export.journal").write_text("")
    with pytest.raises(BundleError, match="unfinished"):
        Bundle.open(tmp_path)


@pytest.fixture
def somebody_else():
    """Root may look anywhere: be somebody who may not, while a test runs."""
    if os.geteuid() == 0:
        os.seteuid(54321)
        yield
        os.seteuid(0)
    else:
        yield


def test_a_place_that_this_user_may_not_look_at_is_not_called_empty(tmp_path, request):
    """Neither `nothing` nor `not a bundle` would be true; both would send people looking for the wrong thing."""
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if folder.stat().st_uid == os.geteuid() and "pytest" in folder.as_posix():
            folder.chmod(0o755)
    bundle = tmp_path / "locked/bundle"
    bundle.mkdir(parents=True)
    (bundle / "manifest.json").write_text("{}")
    request.getfixturevalue("somebody_else")
    for mode, of in ((0o600, tmp_path / "locked"), (0o600, bundle)):
        _set_mode(of, mode)
        with pytest.raises(ConfigError, match=r"permission denied: user id \d+ may not look there"):
            Bundle.open(bundle)
        _set_mode(of, 0o755)
    with pytest.raises(BundleError):  # what lies there is no manifest
        Bundle.open(bundle)


def _set_mode(path, mode):
    """By its owner."""
    user = os.geteuid()
    os.seteuid(path.stat().st_uid if os.getuid() == 0 else user)
    path.chmod(mode)
    os.seteuid(user)
