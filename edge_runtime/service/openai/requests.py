"""The two generation requests: fields as clients send them, and what the service reads out of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta

from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.service.openai.body import Body, FieldError, Label, OnlyFalse, OnlyZero, refuse_true
from edge_runtime.service.openai.formats import Format, ResponseFormat, to_format
from edge_runtime.service.openai.messages import MAX_TOOLS, FunctionChoice, FunctionTool, Message, Tool

_MAX_MESSAGES = 4096
_MAX_STOPS = 16
_MAX_PROMPT = 1 << 20
_NOT_FOR_TEMPLATES = ("messages", "tools", "add_generation_prompt")
_TEMPLATE_ARGS = {
    "additionalProperties": {"type": ["string", "boolean", "number"]},
    "propertyNames": {"not": {"enum": list(_NOT_FOR_TEMPLATES)}},
}
_DEFAULT_COMPLETION_TOKENS = 16

TokenLimit = Annotated[int, Meta(ge=1, le=1 << 31)]
Alternatives = Annotated[int, Meta(ge=0, le=20)]
StopText = Annotated[str, Meta(min_length=1)]


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

    model: str
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
    n: Literal[1] | None = None
    frequency_penalty: OnlyZero | None = None
    presence_penalty: OnlyZero | None = None
    logit_bias: Annotated[dict[str, float], Meta(max_length=0)] | None = None
    user: Label = None

    def __post_init__(self) -> None:
        if self.stream_options is not None and not self.stream:
            raise FieldError("stream_options", "needs stream to be true.")

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

    @property
    def sampling(self) -> SamplingParams:
        """How to sample, and when to stop."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or ()
        return SamplingParams(
            max_tokens=self.token_limit,
            temperature=_default(self.temperature, 1.0),
            top_p=_default(self.top_p, 1.0),
            top_k=self.top_k or 0,
            min_p=self.min_p or 0.0,
            repetition_penalty=_default(self.repetition_penalty, 1.0),
            seed=None if self.seed is None else self.seed % (1 << 64),
            stop=tuple(stops),
            ignore_eos=bool(self.ignore_eos),
        )

    @property
    def format(self) -> Format | None:
        """What the text must look like; None: any text."""
        return None if self.response_format is None else to_format(self.response_format)


class ChatRequest(GenerationRequest, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=_MAX_MESSAGES)]
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None
    tools: Annotated[list[FunctionTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: Annotated[dict[str, Any], Meta(extra_json_schema=_TEMPLATE_ARGS)] | None = None
    store: OnlyFalse | None = None
    modalities: list[Literal["text"]] | None = None
    service_tier: Literal["auto", "default"] | None = None
    metadata: Label = None
    safety_identifier: Label = None
    prompt_cache_key: Label = None
    prompt_cache_options: Label = None
    prompt_cache_retention: Label = None
    audio: None = None
    function_call: None = None
    functions: None = None
    moderation: None = None
    prediction: None = None
    reasoning_effort: None = None
    verbosity: None = None
    web_search_options: None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_true("store", self.store)
        if self.top_logprobs is not None and not self.logprobs:
            raise FieldError("top_logprobs", "needs logprobs to be true.")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise FieldError("max_tokens", "differs from max_completion_tokens; give one of them.")
        self._check_tools()
        for name, value in self.template_args.items():
            if name in _NOT_FOR_TEMPLATES or not isinstance(value, (str, bool, int, float)):
                raise FieldError(f"chat_template_kwargs.{name}", "expected a plain value of a name of its own.")

    def _check_tools(self) -> None:
        choice = self.choice
        kind, _, name = choice.partition(":")
        if kind == "function" and name not in {tool.function.name for tool in self.tools or []}:
            raise FieldError("tool_choice.function.name", "names no function of tools.")
        if kind == "required" and not self.tools:
            raise FieldError("tool_choice", "needs tools.")
        if self.tools and kind != "none" and self.format is not None:
            raise FieldError("response_format", "cannot be combined with tools.")

    @property
    def token_limit(self) -> int | None:
        """Most tokens to generate; None: what the context leaves."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def alternatives(self) -> int | None:
        """How many alternatives a token to report beside its own log probability; None: no log probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def choice(self) -> str:
        """Whether the model calls tools: 'none', 'auto', 'required' or 'function:NAME'."""
        if isinstance(self.tool_choice, FunctionChoice):
            return f"function:{self.tool_choice.function.name}"
        return self.tool_choice or ("auto" if self.tools else "none")

    @property
    def offered_tools(self) -> tuple[Tool, ...]:
        """The tools the model gets to see."""
        kind, _, name = self.choice.partition(":")
        tools = [] if kind == "none" else [Tool.of(given) for given in self.tools or []]
        return tuple(tool for tool in tools if kind != "function" or tool.name == name)

    @property
    def template_args(self) -> Mapping[str, Any]:
        """Extra variables of the chat template."""
        return self.chat_template_kwargs or {}


class CompletionRequest(GenerationRequest, kw_only=True):
    """`POST /v1/completions`."""

    prompt: str | Annotated[list[int | str | list[int]], Meta(min_length=1, max_length=_MAX_PROMPT)]
    logprobs: Alternatives | None = None
    echo: bool | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.echo and self.logprobs is not None:
            raise FieldError("echo", "log probabilities of the prompt are not supported.", "unsupported_parameter")
        if not isinstance(self.text_or_ids, str) and not all(isinstance(token, int) for token in self.text_or_ids):
            raise FieldError("prompt", "expected one prompt: a string, or a list of token ids.")

    @property
    def token_limit(self) -> int | None:
        """Most tokens to generate: 16 unless told otherwise, as OpenAI has it."""
        return _DEFAULT_COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """How many alternatives a token to report beside its own log probability; None: no log probabilities."""
        return self.logprobs

    @property
    def text_or_ids(self) -> str | list[Any]:
        """The one prompt: its text, or its token ids."""
        if isinstance(self.prompt, list) and len(self.prompt) == 1 and not isinstance(self.prompt[0], int):
            return self.prompt[0]
        return self.prompt


def _default(value: float | None, default: float) -> float:
    return default if value is None else value
