"""The two generation requests, read strictly from JSON: endpoints, sampling and format of the text."""

from __future__ import annotations

from typing import Any

from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.service.openai.api_errors import bad_field, unsupported
from edge_runtime.service.openai.chat_parser import MAX_MESSAGES, parse_message, parse_template_args, parse_tools
from edge_runtime.service.openai.fields import Fields
from edge_runtime.service.openai.requests import ChatRequest, CompletionRequest, Format

MAX_STOPS = 16
MAX_TOP_LOGPROBS = 20
_MAX_TOKENS = 1 << 31


def parse_chat(data: dict[str, Any]) -> ChatRequest:
    """Read a chat request.

    Raises:
        ApiError: a field is missing, wrong, unknown or not supported; names it.
    """
    fields = Fields(data)
    model = _model(fields)
    messages = tuple(parse_message(m) for m in fields.objects("messages", MAX_MESSAGES))
    if not messages:
        raise bad_field("messages", "expected at least one message.", "missing_required_parameter")
    wants = fields.flag("logprobs")
    top = fields.integer("top_logprobs", 0, MAX_TOP_LOGPROBS)
    if top is not None and not wants:
        raise bad_field("top_logprobs", "needs logprobs to be true.")
    limit = _one_limit(fields)
    tools, choice = parse_tools(fields)
    for name in ("metadata", "user", "safety_identifier", "prompt_cache_key"):
        fields.get(name)  # labels of the caller's own; they change nothing
    fields.neutral("store", False)
    fields.neutral("modalities", ["text"])
    fields.neutral("service_tier", "auto", "default")
    request = ChatRequest(
        **_common(fields, model, limit, (top or 0) if wants else None),
        messages=messages,
        tools=tools,
        tool_choice=choice,
        parallel_calls=fields.flag("parallel_tool_calls", True),
        template_args=parse_template_args(fields),
    )
    fields.finish()
    if request.format and request.tools and choice != "none":
        raise bad_field("response_format", "cannot be combined with tools.")
    return request


def parse_completion(data: dict[str, Any]) -> CompletionRequest:
    """Read a completion request.

    Raises:
        ApiError: a field is missing, wrong, unknown or not supported; names it.
    """
    fields = Fields(data)
    model = _model(fields)
    prompt = _prompt(fields.required("prompt"))
    limit = fields.integer("max_tokens", 1, _MAX_TOKENS)
    fields.neutral("best_of", 1)
    fields.neutral("suffix", "")
    fields.get("user")
    logprobs = fields.integer("logprobs", 0, MAX_TOP_LOGPROBS)
    echo = fields.flag("echo")
    if echo and logprobs is not None:
        raise unsupported("echo", "log probabilities of the prompt are not supported.")
    common = _common(fields, model, 16 if limit is None else limit, logprobs)
    fields.finish()
    return CompletionRequest(**common, prompt=prompt, echo=echo)


def _model(fields: Fields) -> str:
    fields.required("model")
    return str(fields.text("model"))


def _common(fields: Fields, model: str, limit: int | None, logprobs: int | None) -> dict[str, Any]:
    fields.neutral("n", 1)
    fields.neutral("frequency_penalty", 0)
    fields.neutral("presence_penalty", 0)
    fields.neutral("logit_bias", {})
    stream = fields.flag("stream")
    options = fields.object("stream_options")
    include_usage = False
    if options is not None:
        if not stream:
            raise bad_field("stream_options", "needs stream to be true.")
        include_usage = options.flag("include_usage")
        options.neutral("include_obfuscation", False)
        options.finish()
    vendor = fields.object("hobbit") or Fields({})
    policy = vendor.text("policy")
    vendor.finish()
    return {
        "model": model,
        "sampling": _sampling(fields, limit),
        "stream": stream,
        "include_usage": include_usage,
        "logprobs": logprobs,
        "format": _format(fields),
        "policy": policy,
    }


def _sampling(fields: Fields, limit: int | None) -> SamplingParams:
    seed = fields.integer("seed", -(1 << 63), (1 << 63) - 1)
    return SamplingParams(
        max_tokens=limit,
        temperature=fields.number("temperature", 0, 2, 1.0),
        top_p=_above_zero(fields, "top_p", 1.0, 1.0),
        top_k=fields.integer("top_k", 0, 1 << 20) or 0,
        min_p=fields.number("min_p", 0, 1, 0.0),
        repetition_penalty=_above_zero(fields, "repetition_penalty", 100.0, 1.0),
        seed=None if seed is None else seed % (1 << 64),
        stop=_stops(fields),
        ignore_eos=fields.flag("ignore_eos"),
    )


def _above_zero(fields: Fields, name: str, high: float, default: float) -> float:
    value = fields.number(name, 0, high, default)
    if value == 0:
        raise bad_field(fields.path(name), f"expected a number above 0, at most {high:g}.")
    return value


def _stops(fields: Fields) -> tuple[str, ...]:
    value = fields.get("stop")
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise bad_field("stop", f"expected a string or a list of at most {MAX_STOPS} strings, none of them empty.")
    return tuple(stops)


def _one_limit(fields: Fields) -> int | None:
    old = fields.integer("max_tokens", 1, _MAX_TOKENS)
    new = fields.integer("max_completion_tokens", 1, _MAX_TOKENS)
    if old is not None and new is not None and old != new:
        raise bad_field("max_tokens", "differs from max_completion_tokens; give one of them.")
    return old if new is None else new


def _prompt(value: Any) -> str | tuple[int, ...]:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], (str, list)):
        value = value[0]
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        return tuple(value)
    raise bad_field("prompt", "expected one prompt: a string, or a list of token ids.")


def _format(fields: Fields) -> Format | None:
    given = fields.object("response_format")
    if given is None:
        return None
    kind = given.choice("type", ("text", "json_object", "json_schema", "regex"), "")
    schema, pattern = None, ""
    if kind == "json_schema":
        inner = given.object("json_schema")
        if inner is None:
            raise bad_field("response_format.json_schema", "is required.", "missing_required_parameter")
        inner.text("name")
        inner.text("description")
        inner.flag("strict")
        schema = inner.mapping("schema") or {}
        inner.finish()
    elif kind == "regex":
        given.required("pattern")
        pattern = str(given.text("pattern"))
    given.finish()
    return None if kind == "text" else Format(kind, schema, pattern)
