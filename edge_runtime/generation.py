"""One request: prefill, then one token a step until something ends it. Joins decoder, sampler and detokeniser."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.assembly import Parts
from edge_runtime.sampling import Sampler, SamplingParams
from edge_runtime.telemetry.report import Timings
from edge_runtime.tokenizer import IncrementalDecoder, StopStrings
from edge_runtime.trunk.kv_cache import KVCache


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


class Generation:
    """State and measurements of one request.

    Args:
        parts: the engine's parts.
        kv: the KV cache, holding `kv_tokens` already.
        kv_tokens: tokens whose keys and values are in the cache; extended as tokens are run.
        prompt_ids: int32 [N], the whole prompt.
        params: sampling parameters.
    """

    def __init__(
        self,
        parts: Parts,
        kv: KVCache,
        kv_tokens: list[int],
        prompt_ids: NDArray[np.int32],
        params: SamplingParams,
    ) -> None:
        self._parts, self._kv, self._kv_tokens = parts, kv, kv_tokens
        self._prompt, self._params = prompt_ids, params
        self._sampler = Sampler(params, prompt_ids)
        self._detokeniser = IncrementalDecoder(parts.tokenizer)
        self._stops = StopStrings(params.stop)
        self._eos = set() if params.ignore_eos else set(parts.bundle.manifest.model.eos_token_ids)
        self.timings = Timings(cached_n=len(kv_tokens))
        self.token_ids: list[int] = []
        self.text = ""
        self.finish_reason = "length"
        self.counters_before = parts.cache.counters.snapshot()

    @property
    def _limit(self) -> int:
        """Most tokens to generate: the last one need not be run, so it may lie one past the context."""
        room = self._kv.context - len(self._prompt) + 1
        return room if self._params.max_tokens is None else min(self._params.max_tokens, room)

    def run(self) -> Iterator[Chunk]:
        """Generate; yields a chunk a token."""
        started = perf_counter()
        cached = len(self._kv_tokens)
        logits = self._parts.decoder.prefill(self._prompt[cached:], self._kv)
        self._kv_tokens.extend(self._prompt[cached:].tolist())
        self.timings.prompt_n = len(self._prompt) - cached
        self.timings.prompt_ms = 1000 * (perf_counter() - started)
        while True:
            started = perf_counter()
            if self.token_ids:
                logits = self._step(self.token_ids[-1])
            token = self._sampler.sample(logits)
            self.timings.token_ms.append(1000 * (perf_counter() - started))
            self.token_ids.append(token)
            text, reason = self._advance(token)
            self.text += text
            yield Chunk(text, token, reason)
            if reason:
                return

    def _step(self, token: int) -> NDArray[np.float32]:
        logits = self._parts.decoder.forward(np.array([token], np.int32), self._kv, slice(0, 1))
        self._kv_tokens.append(token)
        last: NDArray[np.float32] = logits[0]
        return last

    def _advance(self, token: int) -> tuple[str, str | None]:
        """Text that became certain, and why generation ends, if it does."""
        if token in self._eos:
            self.finish_reason = "stop"
            return self._stops.push(self._detokeniser.flush()) + self._stops.flush(), "stop"
        text = self._stops.push(self._detokeniser.push(token))
        if self._stops.stopped:
            self.finish_reason = "stop"
            return text, "stop"
        if len(self.token_ids) >= self._limit:
            text += self._stops.push(self._detokeniser.flush())
            self.finish_reason = "stop" if self._stops.stopped else "length"
            return text + self._stops.flush(), self.finish_reason
        return text, None
