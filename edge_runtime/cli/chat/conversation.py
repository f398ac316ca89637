"""A conversation: its turns, and which of them still fit the context. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.base.errors import ContextExceededError

_ANSWER_SHARE = 4
_SPARE_SHARE = 8


@dataclass(frozen=True)
class Turn:
    """A message and its answer.

    Attributes:
        question: what the user wrote.
        answer: what the model said, without what it thought aloud.
        reasoning: what it thought aloud; templates decide whether a later prompt has it.
    """

    question: str
    answer: str
    reasoning: str = ""


@dataclass
class Conversation:
    """Turns from the first to the last, all of them, also those that no longer fit.

    Attributes:
        system: the system message, None without.
        turns: oldest first.
        left_out: how many of the oldest the model no longer sees.
    """

    system: str | None = None
    turns: list[Turn] = field(default_factory=list)
    left_out: int = 0

    def clear(self) -> None:
        """Forget the turns; the system message stays."""
        self.turns, self.left_out = [], 0

    def messages(self, question: str, left_out: int) -> list[dict[str, Any]]:
        """Return the messages of a prompt, as chat templates expect them, without the oldest turns."""
        found: list[dict[str, Any]] = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns[left_out:]:
            found.append({"role": "user", "content": turn.question})
            answer = {"role": "assistant", "content": turn.answer}
            found.append(answer | ({"reasoning_content": turn.reasoning} if turn.reasoning else {}))
        return [*found, {"role": "user", "content": question}]


@dataclass(frozen=True)
class Fitted:
    """A prompt that fits the context.

    Attributes:
        prompt: its text.
        ids: its tokens.
        left_out: how many of the oldest turns it has not.
    """

    prompt: str
    ids: list[int]
    left_out: int


Encode = Callable[[Sequence[dict[str, Any]]], tuple[str, list[int]]]
"""Messages to prompt and tokens. Raises ContextExceededError for more tokens than the context has."""


def fit(conversation: Conversation, question: str, encode: Encode, *, context: int, max_tokens: int | None) -> Fitted:
    """Return the prompt of the newest turns that leaves room for an answer.

    A quarter of the context is kept for the answer, or what it may have if that is less. Once turns have to go, an
    eighth of the context more is made free: otherwise every message would shift the rest, and no KV cache could be
    used again.

    Raises:
        ContextExceededError: the message alone does not fit.
    """
    room = min(max_tokens or context, max(context // _ANSWER_SHARE, 1))
    limit, left_out = context - room, conversation.left_out
    while True:
        is_last = left_out >= len(conversation.turns)
        try:
            prompt, ids = encode(conversation.messages(question, left_out))
        except ContextExceededError:
            if is_last:
                raise
            ids = None
        if ids is not None and (len(ids) <= limit or is_last):
            return Fitted(prompt, ids, left_out)
        limit = min(limit, max(context - room - context // _SPARE_SHARE, 1))
        left_out += 1
