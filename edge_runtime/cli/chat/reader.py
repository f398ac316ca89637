"""What gives a chat its messages, and what holds for every message."""

from __future__ import annotations

import sys
from typing import Protocol

from edge_runtime.base.errors import RequestError

PROMPT = "> "


class Reader(Protocol):
    """Gives one message after another."""

    def read(self) -> str | None:
        """Return the next message or command, None at the end.

        Raises:
            KeyboardInterrupt: the line was given up.
            RequestError: it is no text.
        """
        ...


def checked(text: str) -> str:
    """Return a text that can be encoded.

    Raises:
        RequestError: it has bytes that are no text in this locale's encoding.
    """
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise RequestError(f"message: expected {sys.stdin.encoding} text, got {err.reason}. It was not taken.") from err
    return text
