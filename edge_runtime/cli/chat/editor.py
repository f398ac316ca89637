"""The editor of a chat, by prompt_toolkit; the only module that knows it."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterable

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output.vt100 import Vt100_Output

from edge_runtime.cli.chat.commands import COMMANDS
from edge_runtime.cli.chat.history import HistoryFile
from edge_runtime.cli.chat.reader import PROMPT, checked
from edge_runtime.cli.chat.terminal import Terminal


class Editor:
    """Reads messages with editing, history and pastes of any length.

    Args:
        terminal: its output.
        history: what was typed before.
    """

    def __init__(self, terminal: Terminal, history: HistoryFile) -> None:
        self._terminal = terminal
        output = Vt100_Output.from_pty(sys.stdout, term=os.environ.get("TERM"))
        # a terminal's answers to questions about its cursor would arrive between what is typed
        output.enable_cpr = False
        self._session: PromptSession[str] = PromptSession(
            PROMPT,
            multiline=True,
            prompt_continuation=" " * len(PROMPT),
            history=_History(history),
            key_bindings=_keys(),
            completer=_CommandCompleter(),
            complete_while_typing=True,
            reserve_space_for_menu=0,
            enable_open_in_editor=True,
            enable_suspend=True,
            output=output,
        )

    def read(self) -> str | None:
        """See `Reader.read`."""
        try:
            return checked(self._session.prompt().strip())
        except EOFError:
            return None
        finally:
            self._terminal.after_prompt()


class _History(History):
    """Our file as prompt_toolkit wants it."""

    def __init__(self, file: HistoryFile) -> None:
        super().__init__()
        self._file = file

    def load_history_strings(self) -> Iterable[str]:
        return reversed(self._file.read())

    def store_string(self, string: str) -> None:
        self._file.add(string)


class _CommandCompleter(Completer):
    """Completes the name of a command."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text
        if text.startswith("/") and " " not in text and "\n" not in text:
            for name, command in COMMANDS.items():
                if name.startswith(text[1:]):
                    yield Completion(f"/{name}", start_position=-len(text), display_meta=command.help)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.complete_state = None
        elif _more_comes(event):
            buffer.insert_text("\n")
        elif buffer.document.current_line_before_cursor.endswith("\\") and buffer.document.is_cursor_at_the_end:
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _more_comes(event: KeyPressEvent) -> bool:
    """Whether more text lies there already: then this is no Enter but the line break of a paste without marks."""
    if event.app.key_processor.input_queue:
        return True
    return bool(select.select([event.app.input.fileno()], [], [], 0)[0])
