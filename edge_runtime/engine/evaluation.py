"""What a model says of a whole text: logits after each token and the experts the router chooses, under any policy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from edge_runtime.base.arrays import F32, I32
from edge_runtime.base.errors import RequestError
from edge_runtime.engine.parts import Parts
from edge_runtime.engine.prompt import Prompt
from edge_runtime.engine.sync_client import SyncClient
from edge_runtime.policy.base import Policy
from edge_runtime.policy.wrappers.counting import CountingPolicy, RoutingCounts


class Evaluation:
    """Runs texts that are given, where generation makes its own. The base of `Engine`.

    Args:
        parts: the engine's.
        client: runs the texts, as requests among the engine's others.
    """

    def __init__(self, parts: Parts, client: SyncClient) -> None:
        self._parts = parts
        self._client = client

    def logits(self, token_ids: Prompt, *, chunk: int | None = None) -> F32:
        """Return the logits float32 [T, V] after each of T tokens, from an empty KV cache.

        Args:
            token_ids: tokens, or text.
            chunk: tokens a pass; 1 is teacher forcing as in decode. Default: the plan's prefill chunk.
        """
        self._client.use.require_open()
        ids = self._parts.encode(token_ids)
        out = np.empty((len(ids), self._parts.spec.vocab_size), np.float32)
        for start, rows in self.logit_chunks(ids, chunk=chunk):
            out[start : start + len(rows)] = rows
        return out

    def lossless_logits(self, token_ids: Prompt) -> F32:
        """Return what `logits` would under the policy `lossless`, whatever the policy in force."""
        with self.deciding_with(self._parts.active.make("lossless")):
            return self.logits(token_ids)

    def logit_chunks(self, token_ids: I32, *, chunk: int | None = None) -> Iterator[tuple[int, F32]]:
        """Yield (first position, logits float32 [t, V]) chunk by chunk: `logits` in bounded memory."""
        self._client.use.require_open()
        if chunk is not None and chunk < 1:
            raise RequestError(f"logits: chunk: expected at least 1 token, got {chunk}.")
        with self._client.use.claim():
            yield from self._client.score(token_ids, chunk or self._parts.logits_chunk)

    def logit_windows(self, token_ids: I32, *, chunk: int | None = None) -> Iterator[tuple[int, F32]]:
        """Yield (position, logits [t, V]) of a text of any length, in windows of the context, each begun anew."""
        window = self._parts.config.context
        for start in range(0, len(token_ids), window):
            for position, rows in self.logit_chunks(token_ids[start : start + window], chunk=chunk):
                yield start + position, rows

    def routing_counts(self, text: Prompt, *, max_tokens: int) -> RoutingCounts:
        """Run a text through the model and count how often the router chooses each expert.

        Args:
            text: text or token ids; windows of the context's length are run one after another.
            max_tokens: stop after so many tokens.
        """
        self._client.use.require_open()
        ids = np.asarray(self._parts.tokenizer.encode(text) if isinstance(text, str) else text)[:max_tokens]
        window = self._parts.config.context
        windows = [self._parts.encode(ids[start : start + window]) for start in range(0, len(ids), window)]
        with self._client.use.claim():
            counting = CountingPolicy(self._parts.active.policy, self._parts.spec.num_experts)
            with self._parts.active.deciding_with(counting):
                for each in windows:
                    for _ in self._client.score(each, self._parts.logits_chunk):
                        pass
        return RoutingCounts(len(ids), counting.layers)

    @contextmanager
    def deciding_with(self, policy: Policy) -> Iterator[None]:
        """Let another policy decide during a block; usually one that watches and passes on to `parts.active.policy`.

        Raises:
            RequestError: a request is running, or the engine was closed.
        """
        with self._client.use.claim():
            swapped = self._parts.active.deciding_with(policy)
            swapped.__enter__()
        try:
            yield
        finally:
            swapped.__exit__(None, None, None)
