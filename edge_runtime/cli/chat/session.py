"""One chat: reads, answers or obeys, until it is left."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edge_runtime.base.errors import ContextExceededError, ExpertReadError, RequestError
from edge_runtime.cli.chat.answer import Answer, shown_in, splitter_for
from edge_runtime.cli.chat.commands import split
from edge_runtime.cli.chat.conversation import Conversation, Turn, fit
from edge_runtime.cli.chat.settings import ChatSettings
from edge_runtime.cli.output import print_statistics

if TYPE_CHECKING:
    from edge_runtime import Engine, SamplingParams
    from edge_runtime.cli.chat.conversation import Fitted
    from edge_runtime.cli.chat.reader import Reader
    from edge_runtime.cli.chat.terminal import Terminal


class ChatSession:
    """A conversation with an engine.

    Args:
        engine: answers.
        params: how answers are sampled.
        conversation: where it begins.
        terminal: where answers go.
        as_json: print a report of each answer instead of its text.

    Attributes:
        conversation: what was said; /load replaces it.
        settings: what /set changes.
    """

    def __init__(
        self, engine: Engine, params: SamplingParams, conversation: Conversation, terminal: Terminal, *, as_json: bool
    ) -> None:
        self._engine, self._terminal, self._as_json = engine, terminal, as_json
        self.conversation, self.settings = conversation, ChatSettings(params)

    def converse(self, reader: Reader) -> None:
        """Go on until the end of the input, or /exit."""
        if self._terminal.is_interactive:
            self.say("Type a message. /help lists commands and keys; Ctrl-D leaves.")
        if self.conversation.turns:
            self.say(f"Going on after {self.turns_text()}.")
        while True:
            try:
                text = reader.read()
                if text is None or not self._take(text):
                    return
            except KeyboardInterrupt:
                if not self._terminal.is_interactive:
                    raise
            except (RequestError, ExpertReadError) as err:
                self.say(str(err))

    def say(self, text: str) -> None:
        """Say something that is no answer."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def turns_text(self) -> str:
        """Return how many turns there are, in words."""
        count = len(self.conversation.turns)
        return "1 turn" if count == 1 else f"{count} turns"

    def show_statistics(self) -> None:
        """Print those of the last answer.

        Raises:
            RequestError: there was none.
        """
        try:
            print_statistics(self._engine.last_report())
        except RequestError as err:
            raise RequestError("stats: no answer yet.") from err

    def _take(self, text: str) -> bool:
        """Answer a message or obey a command; False when the chat is over."""
        if not text:
            return True
        what = split(text)
        if not isinstance(what, str):
            command, argument = what
            return command.run(self, argument)
        self._reply(what)
        return True

    def _reply(self, question: str) -> None:
        fitted = self._fit(question)
        conversation = self.conversation
        if fitted.left_out > conversation.left_out:
            gone = fitted.left_out - conversation.left_out
            self.say(
                f"(The context of {self._context} tokens is full: the model no longer sees the oldest "
                f"{'turn' if gone == 1 else f'{gone} turns'}. /clear begins anew; --context N makes room for more.)"
            )
        conversation.left_out = fitted.left_out
        splitter = splitter_for(self._engine.tokenizer, fitted.prompt)
        shows = self.settings.looks["reasoning"]
        answer = Answer(self._terminal, splitter, is_shown=not self._as_json, shows_reasoning=shows)
        reason = self._generate(fitted, answer)
        conversation.turns.append(Turn(question, answer.text, answer.reasoning))
        self._say_how_it_ended(reason)
        if self._as_json:
            print(json.dumps(self._engine.last_report().to_json()), flush=True)
        elif self.settings.looks["stats"]:
            self.show_statistics()

    def _generate(self, fitted: Fitted, answer: Answer) -> str:
        """Run to the end or to Ctrl-C; return why it ended."""
        reason = "stopped"
        params = replace(self.settings.params, shown=shown_in(self._engine.tokenizer))
        try:
            for delta in self._engine.stream(fitted.ids, params, reuse_prefix=True):
                reason = delta.finish_reason or reason
                answer.push(delta.text)
        except KeyboardInterrupt:
            if not self._terminal.is_interactive:
                raise
            reason = "stopped"
        finally:
            answer.end()
        return reason

    def _say_how_it_ended(self, reason: str) -> None:
        if reason == "stopped":
            self.say("(stopped)")
        elif reason == "length":
            count, limit = len(self._engine.last_report().token_ids), self.settings.params.max_tokens
            why = (
                f"/set max_tokens N allows more than {limit}"
                if limit is not None and count >= limit
                else f"the context of {self._context} is full; --context N makes it larger"
            )
            self.say(f"(cut after {count} tokens: {why})")

    @property
    def _context(self) -> int:
        return int(self._engine.parts.config.context)

    def _fit(self, question: str) -> Fitted:
        try:
            return fit(
                self.conversation, question, self._encode,
                context=self._context, max_tokens=self.settings.params.max_tokens,
            )  # fmt: skip
        except ContextExceededError as err:
            raise ContextExceededError(
                f"message: it would exceed the context of {self._context} tokens by itself. It was not taken. "
                "Shorten it, or start `hobbit chat` with a larger --context."
            ) from err

    def _encode(self, messages: Sequence[dict[str, Any]]) -> tuple[str, list[int]]:
        tokenizer = self._engine.tokenizer
        prompt = tokenizer.apply_chat_template(messages)
        ids = tokenizer.encode_within(prompt, self._context, add_special_tokens=False)
        if len(ids) > self._context:
            raise ContextExceededError(f"prompt: {len(ids)} tokens exceed the context of {self._context}.")
        return prompt, ids
