"""Prompts as token ids: encoded within bounds, and checked against the context before anything is queued."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_runtime.base.arrays import I32
from edge_runtime.base.errors import ContextExceededError, RequestError
from edge_runtime.engine.tokenizer import Tokenizer
from edge_runtime.service.openai.api_errors import ApiError, bad_field
from edge_runtime.service.openai.generation import GenerationRequest
from edge_runtime.service.openai.logprobs import MAX_LOGPROBS


class Prompts:
    """Makes prompts of one model.

    Args:
        tokenizer: the bundle's.
        vocab_size: V.
        context: tokens that prompt and answer may have together.
        token_limit: most tokens a request may ask for; None: what the context leaves.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, context: int, token_limit: int | None) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._context, self._token_limit = context, token_limit

    def encode(self, text: str, param: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the tokens of a prompt; one that cannot fit is refused before all of it is tokenised.

        Raises:
            ApiError: it has more tokens than the context, or is no valid Unicode.
        """
        try:
            return self._tokenizer.encode_within(text, self._context, add_special_tokens=add_special_tokens)
        except ContextExceededError as err:
            raise ApiError(400, str(err), param=param, code="context_length_exceeded") from err
        except RequestError as err:
            raise bad_field(param, str(err)) from err

    def check(self, ids: Sequence[int], max_tokens: int | None, param: str) -> I32:
        """Return a prompt as int32 [N] if it can be served.

        Raises:
            ApiError: it is empty, has unknown tokens, or does not fit the context with what is to be generated.
        """
        if not ids:
            raise bad_field(param, "expected at least one token.")
        array = np.asarray(ids, object if max(ids) >= 1 << 31 or min(ids) < 0 else np.int32)
        if array.dtype == object or array.max() >= self._vocab_size:
            raise bad_field(param, f"expected token ids from 0 to {self._vocab_size - 1}.")
        if self._token_limit is not None and (max_tokens or 0) > self._token_limit:
            raise bad_field("max_tokens", f"this server allows {self._token_limit} tokens a request.")
        # the last token is never run, so it may lie one past the context
        needed = len(ids) + (max_tokens or 1) - 1
        if needed > self._context:
            raise ApiError(
                400,
                f"This model's context is {self._context} tokens. The request has {len(ids)} in the prompt"
                f" and asks for {max_tokens or 1} more. Shorten one of them.",
                param=param,
                code="context_length_exceeded",
            )
        return array

    def check_logprobs(
        self, asked: GenerationRequest, prompts: Sequence[I32], param: str, *, is_echoed: bool = False
    ) -> None:
        """Check that the log probabilities of a request can be kept.

        Args:
            asked: the request.
            prompts: int32 [N] each.
            param: the field that says how many alternatives.
            is_echoed: tokens of prompts have them too.

        Raises:
            ApiError: there may be too many.
        """
        if asked.alternatives is None:
            return
        rooms = [self._context - len(ids) + 1 for ids in prompts]
        tokens = sum(min(asked.token_limit or room, room) for room in rooms)
        tokens += sum(map(len, prompts)) if is_echoed else 0
        found = tokens * asked.answers * (asked.alternatives + 1)
        if found > MAX_LOGPROBS:
            raise bad_field(
                param,
                f"up to {found} log probabilities are asked for; expected at most {MAX_LOGPROBS} in one request."
                " Ask for fewer alternatives, tokens or answers.",
            )
