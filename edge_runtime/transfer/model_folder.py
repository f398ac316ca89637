"""The folder of models: bundles by name, and what unfinished pulls have brought so far.

A model is a bundle at `FOLDER/name` or `FOLDER/org/name`. It appears there by one rename, whole and checked. Until then
it is below `FOLDER/.unfinished`, whose folders are named by the bundle they will be.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.base.errors import ConfigError, HobbitError, did_you_mean
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.manifest import NAME as MANIFEST
from edge_runtime.bundle.manifest import Manifest

_PART = r"[A-Za-z0-9_][\w.-]{0,95}"
_NAME = re.compile(rf"{_PART}(?:/{_PART}){{0,2}}", re.ASCII)
_UNFINISHED, _REMOVED = ".unfinished", ".removed-"
_LEVELS = 3


@dataclass(frozen=True)
class Model:
    """One model of the folder; `manifest` is None where it cannot be read, and `fault` says why."""

    name: str
    path: Path
    manifest: Manifest | None
    fault: str = ""

    @property
    def bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.bytes for part in self.manifest.parts) if self.manifest else 0


@dataclass(frozen=True)
class Unfinished:
    """A pull that was interrupted: the name it will have, and the bytes that are here."""

    name: str
    path: Path
    bytes: int


def default_folder() -> Path:
    """Return where models are if nobody says so: below XDG_DATA_HOME, the user's own folder, or /var/lib."""
    given = os.environ.get("XDG_DATA_HOME")
    if given and Path(given).is_absolute():
        return Path(given) / "hobbit-edge" / "models"
    try:
        return Path.home() / ".local" / "share" / "hobbit-edge" / "models"
    except RuntimeError:  # no HOME, and a user id without an account, as in a container
        return Path("/var/lib/hobbit-edge/models")


def check_name(name: str) -> str:
    """Return a name a model may have.

    Raises:
        ConfigError: it may not.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"name: expected letters, digits and . _ -, in up to three parts separated by /, got {name[:80]!r}. "
            "Choose one with --name."
        )
    return name


class ModelFolder:
    """Models below one folder; None: the default one. It need not exist."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_folder()

    def place(self, name: str) -> Path:
        """Return where the model of that name is, or would be.

        Raises:
            ConfigError: no model can have it, or it would lie inside another model.
        """
        place = self.path / check_name(name)
        for above in place.parents:
            if above == self.path:
                break
            if (above / MANIFEST).exists():
                raise ConfigError(
                    f"name: {name!r} lies inside the model {above.relative_to(self.path)}. Choose another."
                )
        return place

    def find(self, text: str) -> Path:
        """Return the bundle that a command's argument means: a path where something is there, else a model's name."""
        if os.path.lexists(text) or not _NAME.fullmatch(text):
            return Path(text)
        place = self.path / text
        if (place / MANIFEST).is_file():
            return place
        known = [path.relative_to(self.path).as_posix() for path in _bundles(self.path, _LEVELS)]
        hint = did_you_mean(text, known) or (" `hobbit list` shows what there is." if known else "")
        raise ConfigError(
            f"{text}: expected a bundle directory, or the name of a model in {self.path}, found nothing.{hint} "
            "`hobbit pull` brings a model."
        )

    def models(self) -> Iterator[Model]:
        """Yield every model, by name."""
        for path in sorted(_bundles(self.path, _LEVELS)):
            name = path.relative_to(self.path).as_posix()
            try:
                yield Model(name, path, manifest_file.read(path))
            except HobbitError as err:
                yield Model(name, path, None, str(err))

    def unfinished(self) -> Iterator[Unfinished]:
        """Yield pulls that were interrupted, by name."""
        root = self.path / _UNFINISHED
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            files = [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
            yield Unfinished(_name_of(path), path, sum(file.stat().st_size for file in files))

    def remove(self, name: str) -> int:
        """Delete a model, and what unfinished pulls of that name have brought; return the bytes they had.

        Raises:
            ConfigError: there is neither.
        """
        place, freed = self.place(name), 0
        for pull in [pull for pull in self.unfinished() if pull.name == name]:
            with locked(pull.path):
                self._discard(pull.path)
            freed += pull.bytes
            self._remove_empty(pull.path.parent)
        if (place / MANIFEST).exists():
            freed += sum(file.lstat().st_size for file in place.rglob("*") if not file.is_dir())
            self._discard(place)
        elif not freed:
            hint = did_you_mean(name, [model.name for model in self.models()])
            raise ConfigError(f"{name}: no model of that name in {self.path}.{hint} `hobbit list` shows what there is.")
        self._remove_empty(place.parent)
        return freed

    @contextmanager
    def staging(self, name: str, bundle_id: str) -> Iterator[Path]:
        """Hold the folder in which a bundle grows until `publish`.

        Raises:
            ConfigError: another process is pulling it, or the folder cannot be written.
        """
        path = self.path / _UNFINISHED / f"{check_name(name).replace('/', '+')}@{bundle_id[:16]}"
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise ConfigError(f"{path}: cannot be made: {err.strerror}. Choose a folder with --models.") from err
        with locked(path):
            yield path

    def publish(self, staging: Path, name: str, *, replace: bool) -> Path:
        """Make a finished bundle visible under its name, in one rename.

        Args:
            staging: the bundle, below what `staging` yielded.
            name: of the model.
            replace: whatever has the name is deleted first.

        Raises:
            ConfigError: the name was taken meanwhile.
        """
        place = self.place(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        if replace and os.path.lexists(place):
            self._discard(place)
        try:
            os.rename(staging, place)
        except OSError as err:
            raise ConfigError(f"{place}: cannot take the new bundle: {err.strerror}. Remove what is there.") from err
        _sync(place.parent)
        shutil.rmtree(staging.parent)
        self._remove_empty(staging.parent.parent)
        return place

    def _discard(self, path: Path) -> None:
        """Delete a folder so that nobody sees it half deleted; of a link the link alone."""
        if path.is_symlink():
            path.unlink()
            return
        os.rename(path, Path(tempfile.mkdtemp(prefix=_REMOVED, dir=self.path)) / path.name)
        for grave in self.path.glob(f"{_REMOVED}*"):  # also what an earlier process left that died here
            shutil.rmtree(grave, ignore_errors=True)

    def _remove_empty(self, folder: Path) -> None:
        while folder != self.path and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a folder of an unfinished pull for this process.

    Raises:
        ConfigError: another process holds it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as err:
        raise ConfigError(f"{path}: another process is pulling this. Wait for it, or end it.") from err
    finally:
        os.close(descriptor)


def _bundles(folder: Path, levels: int) -> Iterator[Path]:
    """Folders with a manifest; nothing is looked for inside them."""
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        if os.path.lexists(entry / MANIFEST):
            yield entry
        elif levels > 1 and not entry.is_symlink():
            yield from _bundles(entry, levels - 1)


def _name_of(staging: Path) -> str:
    return staging.name.rpartition("@")[0].replace("+", "/")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
