"""What both generation requests have: sampling, stopping, streaming, the format of the text."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

from edge_runtime.bundle.sampling_defaults import SamplingDefaults
from edge_runtime.engine.sampler import MAX_BIAS, SamplingParams
from edge_runtime.service.openai.body import Body, FieldError, Label, OnlyFalse, refuse_true
from edge_runtime.service.openai.formats import Format, ResponseFormat, to_format

_MAX_STOPS = 16
_MAX_BIASES = 1024
MAX_ANSWERS = 64
"""Answers to one request: prompts times `n`."""
_SAMPLED = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip
_TOKEN_ID = re.compile("0|[1-9][0-9]{0,8}")

TokenLimit = Annotated[int, Meta(ge=1, le=1 << 31)]
Alternatives = Annotated[int, Meta(ge=0, le=20)]
StopText = Annotated[str, Meta(min_length=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Bias = Annotated[float, Meta(ge=-MAX_BIAS, le=MAX_BIAS)]
_TOKEN_IDS = {"propertyNames": {"pattern": "^(0|[1-9][0-9]{0,8})$"}}


class StreamOptions(Body):
    """What a stream brings besides the text."""

    include_usage: bool | None = None
    include_obfuscation: OnlyFalse | None = None

    def __post_init__(self) -> None:
        refuse_true("include_obfuscation", self.include_obfuscation)


class VendorOptions(Body):
    """This server's own options; `policy` is ``name:param=value`` for this request."""

    policy: str | None = None


class GenerationRequest(Body):
    """What both requests have."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenLimit | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1 << 20)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    seed: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)] | None = None
    stop: StopText | Annotated[list[StopText], Meta(max_length=_MAX_STOPS)] | None = None
    ignore_eos: bool | None = None
    response_format: ResponseFormat | None = None
    hobbit: VendorOptions | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_ANSWERS)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, Bias], Meta(max_length=_MAX_BIASES, extra_json_schema=_TOKEN_IDS)] | None = None
    user: Label = None

    def __post_init__(self) -> None:
        if self.stream_options is not None and not self.stream:
            raise FieldError("stream_options", "needs stream to be true.")
        for token in self.logit_bias or ():
            if _TOKEN_ID.fullmatch(token) is None:
                raise FieldError("logit_bias", f"expected token ids as keys, got {token[:40]!r}.")

    @property
    def answers(self) -> int:
        """How many answers to each prompt."""
        return self.n or 1

    @property
    def token_limit(self) -> int | None:
        """Most tokens to generate; None: what the context leaves."""
        return self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """How many alternatives a token to report beside its own log probability; None: no log probabilities."""
        raise NotImplementedError

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def policy(self) -> str | None:
        """``name:param=value`` for this request; None: the server's."""
        return None if self.hobbit is None else self.hobbit.policy

    def sampling(self, defaults: SamplingDefaults) -> SamplingParams:
        """Return how to sample, and when to stop: what the request says, else the model, else OpenAI's defaults."""
        said = {name: value for name in _SAMPLED if (value := getattr(self, name)) is not None}
        return SamplingParams(
            max_tokens=self.token_limit,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
            seed=None if self.seed is None else self.seed % (1 << 64),
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            ignore_eos=bool(self.ignore_eos),
            **{"temperature": 1.0} | defaults.given | said,
        )

    @property
    def format(self) -> Format | None:
        """What the text must look like; None: any text."""
        return None if self.response_format is None else to_format(self.response_format)
