"""Prompts of a benchmark: random tokens, or windows of a text; another one for every request, the same in every run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edge_runtime.base.arrays import I32
from edge_runtime.base.errors import RequestError

Prompts = Callable[[int], I32]
"""Request number to token ids int32 [prompt_tokens]."""


def random_prompts(vocab_size: int, tokens: int, seed: int) -> Prompts:
    """Return prompts of uniformly random tokens: no locality at all, the hardest case for an expert cache."""

    def prompt(number: int) -> I32:
        return np.random.default_rng((seed, number)).integers(0, vocab_size, tokens).astype(np.int32)

    return prompt


def text_prompts(ids: Sequence[int], tokens: int, name: str) -> Prompts:
    """Return windows of a text one after another, starting over where it ends.

    Raises:
        RequestError: the text is shorter than one prompt.
    """
    if len(ids) < tokens:
        raise RequestError(
            f"prompt-file: {name}: expected at least {tokens} tokens, got {len(ids)}. Lower --prompt-tokens, or give a "
            "longer text."
        )
    text = np.asarray(ids, np.int32)

    def prompt(number: int) -> I32:
        return text[number % (len(text) // tokens) * tokens :][:tokens]

    return prompt


def num_distinct(ids: int, tokens: int, requests: int) -> int:
    """Return how many of the requests get a prompt of their own: repeated ones find their experts cached."""
    return min(ids // tokens, requests)
