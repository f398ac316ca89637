"""What this machine remembers between runs, in which version: bundles that were verified, that passed the self-check.

The folder has a file `version` with one number. Early builds wrote none, so a folder without it is of version 1. A
folder of a later version is refused, not guessed at: what is in it may mean something else.
"""

from __future__ import annotations

import os
from pathlib import Path

from edge_runtime.base.errors import ConfigError

VERSION = 1
_NAME, _MAX_BYTES = "version", 16


def state_folder() -> Path:
    """Where this machine remembers results: systemd's STATE_DIRECTORY, XDG_STATE_HOME, the user's own or /var/lib.

    It need not exist, nor be readable: see `is_remembered`.

    Raises:
        ConfigError: a later version of this program wrote it.
    """
    folder = _place()
    found = _version(folder)
    if found is None or found > VERSION:
        raise ConfigError(
            f"{folder / _NAME}: expected version {VERSION} or older, got {'no number' if found is None else found}. A "
            "later version of hobbit wrote this folder. Run that version, or put the folder away; bundles are then "
            f"verified once more: mv {folder} {folder}.later"
        )
    return folder


def is_remembered(marker: Path) -> bool:
    """Whether a marker below `state_folder` exists; no where it cannot be looked at."""
    try:
        return marker.exists()
    except OSError:
        return False


def remember(marker: Path, text: str = "") -> None:
    """Write a marker, and the version of its folder.

    Args:
        marker: a file in a folder of `state_folder`.
        text: what it says to people.

    Raises:
        OSError: it cannot be written.
    """
    marker.parent.mkdir(parents=True, exist_ok=True)
    stamp = marker.parent.parent / _NAME
    if not stamp.exists():
        stamp.write_text(f"{VERSION}\n", encoding="ascii")
    marker.write_text(text, encoding="utf-8")


def _place() -> Path:
    given = os.environ.get("STATE_DIRECTORY") or os.environ.get("XDG_STATE_HOME")
    if given:
        return Path(given.split(":")[0]) / "hobbit-edge"
    try:
        return Path.home() / ".local" / "state" / "hobbit-edge"
    except RuntimeError:  # no HOME, and a user id without an account, as in a container
        return Path("/var/lib/hobbit-edge")


def _version(folder: Path) -> int | None:
    """The folder's version; None where there is a file that says none."""
    try:
        with open(folder / _NAME, "rb") as file:
            said = file.read(_MAX_BYTES).strip()
    except OSError:
        return 1
    return int(said) if said.isdigit() else None
