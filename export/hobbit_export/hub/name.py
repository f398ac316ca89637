"""`org/name@revision`: when an argument is the name of a model on a hub, and not a folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_PART = r"[A-Za-z0-9][\w.-]{0,95}"
_NAME = re.compile(rf"({_PART}/{_PART})(?:@([\w./+-]{{1,128}}))?", re.ASCII)
_FILES = (".gguf", ".safetensors", ".bin", ".json")


@dataclass(frozen=True)
class HubName:
    """A model on a hub; `revision` is a branch, a tag or a commit, None the hub's default branch."""

    repo: str
    revision: str | None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


def hub_name(text: str) -> HubName | None:
    """Return what an argument names on a hub, or None if it is a path: something is there, or no name looks like it."""
    found = _NAME.fullmatch(text)
    if found is None or found[1].endswith(_FILES) or Path(text).exists():
        return None
    return HubName(found[1], found[2])
