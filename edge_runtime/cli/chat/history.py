"""What was typed in earlier chats: a file for its owner alone, bounded, that two chats may write at once."""

from __future__ import annotations

import json
import os
from pathlib import Path

from edge_runtime.bundle.state import make_folder, state_folder

_MAX_BYTES = 4 << 20
_KEPT = 1000
_MAX_ENTRY = 64 << 10


class HistoryFile:
    """JSON texts, one a line, oldest first. A file that cannot be read or written is as good as none.

    Args:
        path: of the file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @staticmethod
    def of_user() -> HistoryFile:
        """Return the one in this user's state folder."""
        return HistoryFile(state_folder() / "chat-history.jsonl")

    def read(self) -> list[str]:
        """Return what was typed, oldest first; a long file is cut to its last entries."""
        try:
            if self._path is None or not self._path.is_file():
                return []
            with open(self._path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _MAX_BYTES))
                lines = file.read(_MAX_BYTES).splitlines(keepends=True)
        except OSError:
            return []
        kept = lines[-_KEPT:]
        if len(lines) > 2 * _KEPT:
            self._replace(kept)
        return [text for line in kept if (text := _parsed(line))]

    def add(self, text: str) -> None:
        """Append what was typed, unless it is too long to be looked up again."""
        line = (json.dumps(text) + "\n").encode()
        if self._path is None or len(line) > _MAX_ENTRY:
            return
        try:
            make_folder(self._path.parent, 0o700)
            _write(self._path, line, os.O_APPEND)
        except OSError:
            self._path = None

    def _replace(self, lines: list[bytes]) -> None:
        assert self._path is not None
        part = self._path.with_suffix(f".{os.getpid()}.part")
        try:
            _write(part, b"".join(lines), os.O_EXCL)
            os.replace(part, self._path)
        except OSError:
            part.unlink(missing_ok=True)


def _write(path: Path, data: bytes, more_flags: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags | more_flags, 0o600)
    try:
        os.fchmod(descriptor, 0o600)  # also where it was made by somebody with other ideas
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def _parsed(line: bytes) -> str:
    """The text of a line, empty if it is damaged."""
    try:
        text = json.loads(line)
    except ValueError:
        return ""
    return text if isinstance(text, str) else ""
