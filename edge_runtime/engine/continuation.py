"""What follows a prompt: joins sampler and detokeniser, and knows when a text is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edge_runtime.base.arrays import F32, I32
from edge_runtime.engine.detokenizer import IncrementalDecoder, StopStrings
from edge_runtime.engine.sampler import Constraint, Sampler, SamplingParams
from edge_runtime.engine.tokenizer import Tokenizer


class TextDelta(NamedTuple):
    """What one token adds to a text.

    Attributes:
        text: text that became certain with this token, possibly empty.
        token_id: the token.
        finish_reason: None until the last token, then 'stop' or 'length'.
    """

    text: str
    token_id: int
    finish_reason: str | None = None


Chunk = TextDelta
"""The public name of what `Engine.stream` yields."""


class Continuation:
    """Draws tokens from logits, turns them into text, and stops where the request says so.

    Args:
        tokenizer: the model's.
        params: sampling parameters.
        prompt_ids: int32 [N], the whole prompt.
        eos: tokens that end the text.
        context: tokens the KV cache can hold.
        constraint: which tokens may be drawn.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        params: SamplingParams,
        prompt_ids: I32,
        *,
        eos: Sequence[int],
        context: int,
        constraint: Constraint | None = None,
    ) -> None:
        self._sampler = Sampler(params, prompt_ids, constraint)
        self._constraint = constraint
        self._detokeniser = IncrementalDecoder(tokenizer, context=prompt_ids[-16:].tolist())
        self._stops = StopStrings(params.stop)
        self._special = tokenizer.special_texts if params.stop or params.shown else {}
        self._shown = params.shown
        self._eos = set() if params.ignore_eos else set(eos)
        # the last token need not be run, so it may lie one past the context
        room = context - len(prompt_ids) + 1
        self._limit = room if params.max_tokens is None else min(params.max_tokens, room)
        self.token_ids: list[int] = []
        self.text = ""

    @property
    def left(self) -> int:
        """Tokens that may still be drawn."""
        return self._limit - len(self.token_ids)

    def next(self, logits: F32) -> TextDelta:
        """Draw a token from logits float32 [V].

        Raises:
            RequestError: the logits are no numbers, or the constraint cannot go on.
        """
        token = self._sampler.sample(logits)
        self.token_ids.append(token)
        text, reason = self._advance(token)
        self.text += text
        return TextDelta(text, token, reason)

    def _advance(self, token: int) -> tuple[str, str | None]:
        """Text that became certain, and why generation ends, if it does."""
        if token in self._eos:
            return self._end("stop", "")
        special = self._special.get(token)
        if special is None:
            text = self._stops.push(self._detokeniser.push(token))
        elif token in self._shown:
            text = self._stops.push(self._detokeniser.flush() + special)
        else:
            text = self._stops.push(special, is_hidden=True)
        if self._stops.stopped:
            return text, "stop"
        if self._constraint is not None and self._constraint.is_complete:
            return self._end("stop", text)
        return self._end("length", text) if len(self.token_ids) >= self._limit else (text, None)

    def _end(self, reason: str, text: str) -> tuple[str, str]:
        text += self._stops.push(self._detokeniser.flush())
        reason = "stop" if self._stops.stopped else reason
        return text + self._stops.flush(), reason
