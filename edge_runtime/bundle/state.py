"""The folder of what this machine remembers between runs, and its version: what was verified, used, typed, sent.

The folder has a file `version` with one number, written before anything else in it: whoever writes there calls
`make_folder` first. Early builds wrote none, so a folder without it is of version 1. A folder of a later version is
refused, not guessed at: what is in it may mean something else.
"""

from __future__ import annotations

import contextlib
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
    """Write a marker.

    Args:
        marker: a file in a folder of `state_folder`.
        text: what it says to people.

    Raises:
        OSError: it cannot be written.
    """
    make_folder(marker.parent)
    marker.write_text(text, encoding="utf-8")


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder that is about to be written to; where it is in the state folder, that gets its version first.

    Args:
        folder: the state folder, one below it, or a place elsewhere that the user named.
        mode: of the folder if it is made now.

    Raises:
        OSError: it cannot be made, or the version cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=mode)
    state = _place()
    if folder.is_relative_to(state) and not (state / _NAME).exists():
        _stamp(state)


def _stamp(state: Path) -> None:
    """Write the version, whole or not at all: half a file would be taken for that of a later version."""
    part = state / f"{_NAME}.{os.getpid()}.part"
    try:
        part.write_text(f"{VERSION}\n", encoding="ascii")
        part.replace(state / _NAME)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


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
