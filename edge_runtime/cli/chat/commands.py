"""Commands of a chat: the table behind /help, completion, and the refusal of what is not in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, Protocol

from edge_runtime.base.errors import RequestError, did_you_mean
from edge_runtime.cli.chat.conversation import Conversation
from edge_runtime.cli.chat.settings import ChatSettings

_COMMAND = re.compile(r"/([A-Za-z?]+)(?:\s+(.*))?", re.DOTALL)
KEYS = (
    "Enter sends; Alt-Enter, Ctrl-J or a backslash at the end of a line begins another line. A paste stays whole.",
    "Ctrl-C clears the line, or stops an answer. Ctrl-D leaves. Up and Ctrl-R find what was typed before.",
    "A message that begins with a slash: write two.",
)


class Chat(Protocol):
    """What commands act on.

    Attributes:
        conversation: what was said.
        settings: what /set changes.
    """

    conversation: Conversation
    settings: ChatSettings

    def say(self, text: str) -> None:
        """Say something that is no answer."""
        ...

    def turns_text(self) -> str:
        """Return how many turns there are, in words."""
        ...

    def show_statistics(self) -> None:
        """Print those of the last answer."""
        ...


class Command(NamedTuple):
    """A command.

    Attributes:
        takes: its argument, for help; empty: none.
        help: what it does.
        run: does it, with the text after its name; returns whether the chat goes on.
    """

    takes: str
    help: str
    run: Callable[[Chat, str], bool]


def _help(chat: Chat, text: str) -> bool:
    for name, command in COMMANDS.items():
        chat.say(f"  {f'/{name} {command.takes}':<22}{command.help}")
    for line in KEYS:
        chat.say(line)
    return True


def _clear(chat: Chat, text: str) -> bool:
    chat.conversation.clear()
    chat.say("A new conversation.")
    return True


def _system(chat: Chat, text: str) -> bool:
    if text:
        chat.conversation.system = None if text in ('""', "''") else text
    chat.say(f"system message: {chat.conversation.system or 'none'}")
    return True


def _set(chat: Chat, text: str) -> bool:
    name, _, value = text.partition(" ")
    if not name:
        for line in chat.settings.lines():
            chat.say(line)
    elif not value.strip():
        raise RequestError(f"set: {name}: expected a value, as in /set temperature 0.7.")
    else:
        chat.say(chat.settings.change(name, value.strip()))
    return True


def _save(chat: Chat, text: str) -> bool:
    from edge_runtime.cli.chat.saved import save

    save(chat.conversation, _file(text, "save"))
    chat.say(f"saved {chat.turns_text()} to {text}")
    return True


def _load(chat: Chat, text: str) -> bool:
    from edge_runtime.cli.chat.saved import load

    chat.conversation = load(_file(text, "load"))
    chat.say(f"loaded {chat.turns_text()} from {text}")
    return True


def _file(text: str, name: str) -> str:
    if not text:
        raise RequestError(f"{name}: expected a file, as in /{name} talk.json.")
    return text


def _stats(chat: Chat, text: str) -> bool:
    chat.show_statistics()
    return True


def _exit(chat: Chat, text: str) -> bool:
    return False


COMMANDS = {
    "help": Command("", "this list", _help),
    "clear": Command("", "begin a new conversation; the system message stays", _clear),
    "system": Command("[TEXT]", 'show or change the system message; "" removes it', _system),
    "set": Command("[NAME VALUE]", "show or change how answers are sampled and shown", _set),
    "save": Command("FILE", "write the conversation", _save),
    "load": Command("FILE", "go on with a conversation that was saved", _load),
    "stats": Command("", "speed, reads and memory of the last answer", _stats),
    "exit": Command("", "leave, as Ctrl-D does", _exit),
}
"""Commands by name."""
_OTHER_NAMES = {"?": "help", "h": "help", "reset": "clear", "new": "clear", "quit": "exit", "bye": "exit", "q": "exit"}


def split(text: str) -> tuple[Command, str] | str:
    """Return a command and its argument, or the message that a text is.

    A path such as ``/etc/hosts`` is a message; so is a text of several lines that begins with no command's name.

    Raises:
        RequestError: it looks like a command, and there is none of that name.
    """
    if text.startswith("//"):
        return text[1:]
    found = _COMMAND.fullmatch(text)
    if found is None:
        return text
    name = found[1].lower()
    name = _OTHER_NAMES.get(name, name)
    if name in COMMANDS:
        return COMMANDS[name], (found[2] or "").strip()
    if "\n" in text:
        return text
    hint = did_you_mean(f"/{name}", [f"/{known}" for known in (*COMMANDS, *_OTHER_NAMES)], "/")
    raise RequestError(
        f"/{found[1]}: there is no such command.{hint} /help lists them. To send it as a message: /{text}"
    )
