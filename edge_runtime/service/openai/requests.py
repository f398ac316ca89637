"""The two generation requests: fields as clients send them, and what the service reads out of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta

from edge_runtime.service.openai.body import FieldError, Label, OnlyFalse, refuse_true
from edge_runtime.service.openai.generation import MAX_ANSWERS, Alternatives, GenerationRequest, TokenLimit
from edge_runtime.service.openai.messages import MAX_TOOLS, FunctionChoice, FunctionTool, Message, Tool

_MAX_MESSAGES = 4096
_MAX_PROMPT = 1 << 20
_NOT_FOR_TEMPLATES = ("messages", "tools", "add_generation_prompt")
_TEMPLATE_ARGS = {
    "additionalProperties": {"type": ["string", "boolean", "number"]},
    "propertyNames": {"not": {"enum": list(_NOT_FOR_TEMPLATES)}},
}
_DEFAULT_COMPLETION_TOKENS = 16


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
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
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
    best_of: Annotated[int, Meta(ge=1, le=MAX_ANSWERS)] | None = None
    suffix: Literal[""] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.best_of is not None and self.best_of != self.answers:
            raise FieldError("best_of", "is not supported; only the value of n is accepted.", "unsupported_parameter")
        if isinstance(self.prompt, list) and len({type(one) for one in self.prompt}) > 1:
            raise FieldError("prompt", "expected strings, or token ids, or lists of token ids; not a mixture.")
        prompts = self.prompts
        if len(prompts) * self.answers > MAX_ANSWERS:
            raise FieldError(
                "prompt" if self.answers == 1 else "n",
                f"{len(prompts)} prompts with {self.answers} answers each are {len(prompts) * self.answers} answers; "
                f"expected at most {MAX_ANSWERS} for one request.",
            )

    @property
    def token_limit(self) -> int | None:
        """Most tokens to generate: 16 unless told otherwise, as OpenAI has it."""
        return _DEFAULT_COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """How many alternatives a token to report beside its own log probability; None: no log probabilities."""
        return self.logprobs

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt is repeated with log probabilities of its tokens."""
        return bool(self.echo) and self.logprobs is not None

    @property
    def prompts(self) -> list[Any]:
        """The prompts: text, or token ids, of each."""
        is_one = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        return [self.prompt] if is_one else list(self.prompt)
