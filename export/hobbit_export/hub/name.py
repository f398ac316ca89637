"""`org/name@revision` or `org/name:file.gguf`: when an argument names a model on a hub, and is not a path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_PART = r"[A-Za-z0-9][\w.-]{0,95}"
_NAME = re.compile(rf"({_PART}/{_PART})(?:@([\w./+-]{{1,128}}))?(?::([\w./+-]{{1,250}}\.gguf))?", re.ASCII)
_FILES = (".gguf", ".safetensors", ".bin", ".json")


@dataclass(frozen=True)
class HubName:
    """A model on a hub.

    Attributes:
        repo: organisation and name.
        revision: a branch, a tag or a commit; None: the hub's default branch.
        file: path of a GGUF file in it, of several splits the first; None: a model of transformers.
    """

    repo: str
    revision: str | None
    file: str | None = None

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{self.repo}{revision}" + ("" if self.file is None else f":{self.file}")


def hub_name(text: str) -> HubName | None:
    """Return what an argument names on a hub, or None if it is a path: something is there, or no name looks like it."""
    found = _NAME.fullmatch(text)
    if found is None or found[1].endswith(_FILES) or Path(text).exists():
        return None
    return HubName(found[1], found[2], found[3])
