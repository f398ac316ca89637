"""Conversations as files: what /save writes, and what /load takes back after checking it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import RequestError
from edge_runtime.cli.chat.conversation import Conversation, Turn

_FORMAT = "hobbit-chat-1"
_MAX_BYTES = 16 << 20


def save(conversation: Conversation, path: str) -> None:
    """Write a conversation, readable for its owner alone; another conversation's file is replaced.

    Raises:
        RequestError: there is another kind of file, or it cannot be written.
    """
    target = Path(path).expanduser()
    if target.exists():
        try:
            load(path)
        except RequestError as err:
            raise RequestError(f"save: {path}: exists and is no saved conversation. Name another file.") from err
    messages = conversation.messages("", 0)[:-1]
    text = json.dumps({"format": _FORMAT, "messages": messages}, indent=1, ensure_ascii=False)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        os.replace(part, target)
    except OSError as err:
        part.unlink(missing_ok=True)
        raise RequestError(f"save: {path}: cannot be written: {err.strerror}.") from err


def load(path: str) -> Conversation:
    """Read what `save` wrote.

    Raises:
        RequestError: it cannot be read, or is something else.
    """
    source = Path(path).expanduser()
    try:
        if not source.is_file():
            raise RequestError(f"load: {path}: expected a file that /save wrote, found {_kind(source)}.")
        with open(source, "rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as err:
        raise RequestError(f"load: {path}: cannot be read: {err.strerror}.") from err
    if len(raw) > _MAX_BYTES:
        raise RequestError(f"load: {path}: expected at most {_MAX_BYTES >> 20} MiB.")
    try:
        return _conversation(json.loads(raw))
    except (ValueError, RecursionError) as err:
        raise RequestError(f"load: {path}: expected a file that /save wrote: {str(err)[:120]}.") from err


def _kind(path: Path) -> str:
    return "a folder" if path.is_dir() else "something else" if path.exists() else "nothing"


def _conversation(data: Any) -> Conversation:
    if not isinstance(data, dict) or data.get("format") != _FORMAT or not isinstance(data.get("messages"), list):
        raise ValueError(f'it has no "format": "{_FORMAT}" and list of "messages"')
    messages = [_message(entry) for entry in data["messages"]]
    found = Conversation()
    if messages and messages[0]["role"] == "system":
        found.system = messages.pop(0)["content"]
    for asked, answer in zip(messages[::2], messages[1::2], strict=len(messages) % 2 == 0):
        if (asked["role"], answer["role"]) != ("user", "assistant"):
            raise ValueError("messages of user and assistant do not alternate")
        found.turns.append(Turn(asked["content"], answer["content"], answer.get("reasoning_content", "")))
    if len(messages) % 2:
        raise ValueError("its last message has no answer")
    return found


def _message(entry: Any) -> dict[str, str]:
    if not isinstance(entry, dict) or not {"role", "content"} <= set(entry):
        raise ValueError("a message has no role and content")
    if not all(isinstance(value, str) for value in entry.values()):
        raise ValueError("a message has something that is no text")
    return entry
