"""What was sent to a server and what it said of it then, so that a push that is run again sends only the rest."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from edge_runtime.bundle.state import make_folder, state_folder

_MOST_BYTES = 4 << 20


class Sent:
    """Marks of the parts of one bundle at one address, in a small file of this machine. Losing it costs time only."""

    def __init__(self, address: str, bundle_id: str) -> None:
        key = hashlib.sha256(f"{address}\n{bundle_id}".encode()).hexdigest()[:32]
        self._path = state_folder() / "push" / f"{key}.json"
        self._marks = _read(self._path)

    def has(self, name: str, mark: str) -> bool:
        """Whether a part was sent and the server still says the same of it; an empty mark says nothing."""
        return bool(mark) and self._marks.get(name) == mark

    def add(self, name: str, mark: str) -> None:
        """Remember what a server says of a part that it took whole."""
        self._marks[name] = mark
        try:
            make_folder(self._path.parent)
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text(json.dumps(self._marks))
            os.replace(temporary, self._path)
        except OSError:
            pass  # a state folder that cannot be written

    def forget(self) -> None:
        """Delete the file: the bundle is there."""
        self._path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, str]:
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(name): str(mark) for name, mark in found.items()} if isinstance(found, dict) else {}
