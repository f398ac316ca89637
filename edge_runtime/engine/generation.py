"""One request: prefill, then one token a step until something ends it. Joins decoder, sampler and detokeniser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cpu.trunk.kv_cache import KVCache
from edge_runtime.engine.assembly import Parts
from edge_runtime.engine.decoder import BeforeLayer, nothing
from edge_runtime.engine.detokenizer import IncrementalDecoder, StopStrings
from edge_runtime.engine.sampler import Constraint, Sampler, SamplingParams
from edge_runtime.engine.tokenizer import Tokenizer
from edge_runtime.telemetry.report import Timings

_CONTEXT = 64
"""Tokens of the prompt that the text after it may depend on: a run of byte tokens, and a few before it."""


class Chunk(NamedTuple):
    """One step of a stream.

    Attributes:
        text: text that became certain with this token, possibly empty.
        token_id: the token.
        finish_reason: None until the last chunk, then 'stop' or 'length'.
    """

    text: str
    token_id: int
    finish_reason: str | None = None


class Continuation:
    """What follows a prompt: draws tokens from logits, turns them into text, and knows when it is over.

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
        prompt_ids: NDArray[np.int32],
        *,
        eos: Sequence[int],
        context: int,
        constraint: Constraint | None = None,
    ) -> None:
        self._sampler = Sampler(params, prompt_ids, constraint)
        self._constraint = constraint
        self._detokeniser = IncrementalDecoder(tokenizer, context=prompt_ids[-_CONTEXT:].tolist())
        self._stops = StopStrings(params.stop)
        self._eos = set() if params.ignore_eos else set(eos)
        # the last token need not be run, so it may lie one past the context
        room = context - len(prompt_ids) + 1
        self._limit = room if params.max_tokens is None else min(params.max_tokens, room)
        self.token_ids: list[int] = []
        self.text = ""
        self.finish_reason = "length"

    def next(self, logits: NDArray[np.float32]) -> Chunk:
        """Draw a token from logits float32 [V].

        Raises:
            RequestError: the logits are no numbers, or the constraint cannot go on.
        """
        token = self._sampler.sample(logits)
        self.token_ids.append(token)
        text, reason = self._advance(token)
        self.text += text
        return Chunk(text, token, reason)

    def _advance(self, token: int) -> tuple[str, str | None]:
        """Text that became certain, and why generation ends, if it does."""
        if token in self._eos:
            return self._end("stop", "")
        text = self._stops.push(self._detokeniser.push(token))
        if self._stops.stopped:
            self.finish_reason = "stop"
            return text, "stop"
        if self._constraint is not None and self._constraint.is_complete:
            return self._end("stop", text)
        return self._end("length", text) if len(self.token_ids) >= self._limit else (text, None)

    def _end(self, reason: str, text: str) -> tuple[str, str]:
        text += self._stops.push(self._detokeniser.flush())
        self.finish_reason = "stop" if self._stops.stopped else reason
        return text + self._stops.flush(), self.finish_reason


class Generation:
    """State and measurements of one request.

    Args:
        parts: the engine's parts.
        kv: the KV cache, holding `kv_tokens` already.
        kv_tokens: tokens whose keys and values are in the cache; extended as tokens are run.
        prompt_ids: int32 [N], the whole prompt.
        params: sampling parameters.
        before_layer: called before every layer of a pass.
    """

    def __init__(
        self,
        parts: Parts,
        kv: KVCache,
        kv_tokens: list[int],
        prompt_ids: NDArray[np.int32],
        params: SamplingParams,
        before_layer: BeforeLayer = nothing,
    ) -> None:
        self._parts, self._kv, self._kv_tokens = parts, kv, kv_tokens
        self._before_layer = before_layer
        self._prompt = prompt_ids
        eos = parts.bundle.manifest.model.eos_token_ids
        self._continuation = Continuation(parts.tokenizer, params, prompt_ids, eos=eos, context=kv.context)
        self.timings = Timings(cached_n=len(kv_tokens))
        self.counters_before = parts.cache.counters.snapshot()

    @property
    def token_ids(self) -> list[int]:
        """Tokens generated so far."""
        return self._continuation.token_ids

    @property
    def text(self) -> str:
        """Text generated so far."""
        return self._continuation.text

    @property
    def finish_reason(self) -> str:
        """'stop' or 'length'; 'length' before the end."""
        return self._continuation.finish_reason

    def run(self) -> Iterator[Chunk]:
        """Generate; yields a chunk a token."""
        started = perf_counter()
        cached = len(self._kv_tokens)
        logits = self._parts.decoder.prefill(self._prompt[cached:], self._kv, self._before_layer)
        self._kv_tokens.extend(self._prompt[cached:].tolist())
        self.timings.prompt_n = len(self._prompt) - cached
        self.timings.prompt_ms = 1000 * (perf_counter() - started)
        while True:
            started = perf_counter()
            if self.token_ids:
                logits = self._step(self.token_ids[-1])
            chunk = self._continuation.next(logits)
            self.timings.token_ms.append(1000 * (perf_counter() - started))
            yield chunk
            if chunk.finish_reason:
                return

    def _step(self, token: int) -> NDArray[np.float32]:
        logits = self._parts.decoder.forward(np.array([token], np.int32), self._kv, slice(0, 1), self._before_layer)
        self._kv_tokens.append(token)
        last: NDArray[np.float32] = logits[0]
        return last
