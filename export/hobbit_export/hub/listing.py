"""What a hub says of a model: the commit a revision means now, and each file's size and digest."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import BundleError, ConfigError, HubError
from hobbit_export.hub.failures import patiently
from hobbit_export.hub.name import HubName
from hobbit_export.tokenizer_files import OPTIONAL, REQUIRED, TEMPLATES

_READ_BYTES = 1 << 20
_MOST_SMALL_BYTES = 256 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository.

    Attributes:
        digest: SHA-256 of its bytes where `is_large`, else git's SHA-1 of it, in hex; what the hub calls its ETag.
    """

    name: str
    size: int
    digest: str
    is_large: bool

    def hasher(self) -> Any:
        """Return what its bytes, in order, give `digest`."""
        return hashlib.sha256() if self.is_large else hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    def check(self, path: Path) -> None:
        """Compare a downloaded file with the hub's digest.

        Raises:
            BundleError: it is not that file.
        """
        hasher = self.hasher()
        with open(path, "rb") as file:
            while data := file.read(_READ_BYTES):
                hasher.update(data)
        if hasher.hexdigest() != self.digest:
            raise BundleError(
                f"{self.name}: expected the digest {self.digest} that the hub states, got {hasher.hexdigest()}. "
                f"Delete {path} and run the same command again."
            )


@dataclass(frozen=True)
class Listing:
    """A repository at one commit; everything is read at that commit, whatever happens to the branch."""

    repo: str
    commit: str
    files: dict[str, HubFile]

    def __str__(self) -> str:
        return f"{self.repo}@{self.commit}"

    def tokenizer(self) -> list[HubFile]:
        """Return the files of the tokenizer, sorted by name.

        Raises:
            ConfigError: tokenizer.json is not among them, or one is absurdly large.
        """
        if REQUIRED not in self.files:
            raise ConfigError(
                f"{self}: {REQUIRED}: expected a fast tokenizer, found none. Make one where transformers is installed, "
                "and give its folder by --tokenizer: "
                f"AutoTokenizer.from_pretrained({self.repo!r}).save_pretrained('tokenizer')"
            )
        return self.small_files({REQUIRED, *OPTIONAL}, TEMPLATES)

    def small_files(self, names: set[str], templates: str = "") -> list[HubFile]:
        """Return files of these names that are there, and the templates in a folder, sorted by name.

        Raises:
            ConfigError: one is absurdly large.
        """
        found = [
            file
            for name, file in sorted(self.files.items())
            if name in names or (templates and name.startswith(f"{templates}/") and name.endswith(".jinja"))
        ]
        for file in found:
            if file.size > _MOST_SMALL_BYTES:
                raise ConfigError(f"{self}: {file.name}: expected at most {_MOST_SMALL_BYTES} bytes, got {file.size}.")
        return found


def list_model(name: HubName) -> Listing:
    """Ask the hub for a model.

    Raises:
        ConfigError: there is no such model or revision, or no access to it.
        HubError: the hub does not answer, or with something else.
    """
    from huggingface_hub import HfApi, constants

    api = HfApi(endpoint=constants.ENDPOINT, library_name="hobbit-edge")
    info = patiently(str(name), lambda: api.model_info(name.repo, revision=name.revision, files_metadata=True))
    if not _COMMIT.fullmatch(info.sha or ""):
        raise HubError(f"{name}: expected the hub to name a commit, got {str(info.sha)[:80]!r}.")
    files = {}
    for found in info.siblings or ():
        digest = found.lfs.sha256 if found.lfs else found.blob_id
        if digest and found.size is not None and found.size >= 0:
            files[found.rfilename] = HubFile(found.rfilename, found.size, digest, bool(found.lfs))
    return Listing(name.repo, str(info.sha), files)
