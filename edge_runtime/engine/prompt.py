"""A prompt as callers give it, checked and as tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_runtime.base.arrays import I32, Ints
from edge_runtime.base.errors import RequestError, UnfitBundleError
from edge_runtime.engine.tokenizer import Tokenizer

Prompt = str | Sequence[int] | Ints
"""Text, or token ids."""


def encode_prompt(prompt: Prompt, tokenizer: Tokenizer, *, context: int, vocab_size: int) -> I32:
    """Return the tokens int32 [N] of a prompt, at least one.

    Args:
        prompt: text or token ids.
        tokenizer: the model's.
        context: most tokens.
        vocab_size: V.

    Raises:
        RequestError: it is empty, too long, or has unknown tokens.
    """
    ids = np.asarray(tokenizer.encode_within(prompt, context) if isinstance(prompt, str) else prompt)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise RequestError(f"prompt: expected text or a list of token ids, got an array of {ids.dtype} {ids.shape}.")
    if not ids.size:
        raise RequestError("prompt: expected at least one token, got none.")
    if ids.min() < 0 or ids.max() >= vocab_size:
        bad = int(ids.min() if ids.min() < 0 else ids.max())
        error = UnfitBundleError if isinstance(prompt, str) else RequestError  # the tokenizer knows more than the model
        raise error(f"prompt: token id {bad} is outside the vocabulary of {vocab_size}.")
    if len(ids) > context:
        raise RequestError(
            f"prompt: {len(ids)} tokens exceed the context of {context}. "
            "Shorten it, or open the engine with a larger context."
        )
    return ids.astype(np.int32)
