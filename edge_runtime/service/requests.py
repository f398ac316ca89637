"""What a client may ask for: the two generation requests, read strictly from JSON into frozen values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_runtime.sampling import SamplingParams
from edge_runtime.service.api_errors import bad_field, unsupported
from edge_runtime.service.fields import Fields

MAX_MESSAGES = 4096
MAX_STOPS = 16
MAX_TOP_LOGPROBS = 20
MAX_TOOLS = 128
_MAX_TOKENS = 1 << 31
_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class Format:
    """What the text must look like.

    Attributes:
        kind: 'json_object', 'json_schema' or 'regex'.
        schema: of json_schema.
        pattern: of regex.
    """

    kind: str
    schema: Mapping[str, Any] | None = None
    pattern: str = ""


@dataclass(frozen=True)
class Tool:
    """A function the model may call."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return it as chat templates expect it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class Common:
    """What both requests have.

    Attributes:
        model: name asked for.
        sampling: parameters, max_tokens included.
        stream: send the text as it comes.
        include_usage: end a stream with a chunk of usage.
        logprobs: None without, else how many alternatives a token.
        format: constraint of the text.
        policy: ``name:param=value`` for this request, None for the server's.
    """

    model: str
    sampling: SamplingParams
    stream: bool
    include_usage: bool
    logprobs: int | None
    format: Format | None
    policy: str | None


@dataclass(frozen=True)
class ChatRequest(Common):
    """`POST /v1/chat/completions`.

    Attributes:
        messages: as chat templates expect them.
        tools: functions the model may call.
        tool_choice: 'none', 'auto', 'required', or 'function:NAME'.
        template_args: extra variables of the chat template.
    """

    messages: tuple[dict[str, Any], ...]
    tools: tuple[Tool, ...]
    tool_choice: str
    template_args: Mapping[str, Any]


@dataclass(frozen=True)
class CompletionRequest(Common):
    """`POST /v1/completions`.

    Attributes:
        prompt: text or token ids.
        echo: repeat the prompt in front of the text.
    """

    prompt: str | tuple[int, ...]
    echo: bool


def parse_chat(data: dict[str, Any]) -> ChatRequest:
    """Read a chat request.

    Raises:
        ApiError: a field is missing, wrong, unknown or not supported; names it.
    """
    fields = Fields(data)
    model = _model(fields)
    messages = tuple(_message(m) for m in fields.objects("messages", MAX_MESSAGES))
    if not messages:
        raise bad_field("messages", "expected at least one message.", "missing_required_parameter")
    wants = fields.flag("logprobs")
    top = fields.integer("top_logprobs", 0, MAX_TOP_LOGPROBS)
    if top is not None and not wants:
        raise bad_field("top_logprobs", "needs logprobs to be true.")
    limit = _one_limit(fields)
    tools, choice = _tools(fields)
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
        template_args=_template_args(fields),
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


def _tools(fields: Fields) -> tuple[tuple[Tool, ...], str]:
    tools = tuple(_tool(t) for t in fields.objects("tools", MAX_TOOLS))
    fields.flag("parallel_tool_calls", True)
    choice = fields.get("tool_choice")
    if choice is None:
        return tools, "auto" if tools else "none"
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise bad_field("tool_choice", "expected none, auto, required or a function.")
    elif isinstance(choice, dict):
        named = Fields(choice, "tool_choice")
        named.choice("type", ("function",), "")
        function = named.object("function") or Fields({}, "tool_choice.function")
        choice = str(function.required("name"))
        function.finish()
        named.finish()
        if choice not in {tool.name for tool in tools}:
            raise bad_field("tool_choice.function.name", "names no function of tools.")
        choice = f"function:{choice}"
    else:
        raise bad_field("tool_choice", "expected none, auto, required or a function.")
    if choice == "required" and not tools:
        raise bad_field("tool_choice", "needs tools.")
    return tools, choice


def _tool(fields: Fields) -> Tool:
    fields.choice("type", ("function",), "")
    function = fields.object("function")
    if function is None:
        raise bad_field(fields.path("function"), "is required.", "missing_required_parameter")
    function.required("name")
    name = str(function.text("name"))
    if not (0 < len(name) <= 64 and all(c.isalnum() or c in "_-." for c in name)):
        raise bad_field(function.path("name"), "expected 1 to 64 letters, digits, '_', '-' or '.'.")
    tool = Tool(
        name, function.text("description") or "", function.mapping("parameters") or {"type": "object", "properties": {}}
    )
    function.flag("strict")
    function.finish()
    fields.finish()
    return tool


def _message(fields: Fields) -> dict[str, Any]:
    role = fields.choice("role", _ROLES, "")
    message: dict[str, Any] = {"role": "system" if role == "developer" else role}
    content = _content(fields)
    if content is None and role != "assistant":
        raise bad_field(fields.path("content"), "is required.", "missing_required_parameter")
    message["content"] = content or ""
    if (name := fields.text("name")) is not None:
        message["name"] = name
    if role == "assistant":
        fields.neutral("refusal")
        fields.neutral("audio")
        fields.neutral("annotations", [])
        fields.neutral("function_call")
        if (reasoning := fields.text("reasoning_content")) is not None:
            message["reasoning_content"] = reasoning
        calls = [_call(c) for c in fields.objects("tool_calls", MAX_TOOLS)]
        if calls:
            message["tool_calls"] = calls
    if role == "tool":
        message["tool_call_id"] = fields.text("tool_call_id") or ""
    fields.finish()
    return message


def _content(fields: Fields) -> str | None:
    """Text of a message; a list of text parts is joined."""
    value = fields.get("content")
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise bad_field(fields.path("content"), "expected a string or a list of text parts.")
    texts = []
    for part in fields.objects("content", MAX_MESSAGES):
        if part.get("type") != "text":
            raise unsupported(part.path("type"), "only text parts are supported.")
        part.required("text")
        texts.append(str(part.text("text")))
        part.finish()
    return "".join(texts)


def _call(fields: Fields) -> dict[str, Any]:
    call: dict[str, Any] = {"id": fields.text("id") or "", "type": fields.choice("type", ("function",), "function")}
    function = fields.object("function")
    if function is None:
        raise bad_field(fields.path("function"), "is required.", "missing_required_parameter")
    function.required("name")
    arguments = function.text("arguments") or "{}"
    try:
        value = json.loads(arguments)  # templates print objects, not strings of them
    except (ValueError, RecursionError) as err:
        raise bad_field(function.path("arguments"), "expected JSON in a string.") from err
    call["function"] = {"name": str(function.text("name")), "arguments": value}
    function.finish()
    fields.finish()
    return call


def _template_args(fields: Fields) -> Mapping[str, Any]:
    given = fields.mapping("chat_template_kwargs") or {}
    for name, value in given.items():
        if name in ("messages", "tools", "add_generation_prompt") or not isinstance(value, (str, bool, int, float)):
            raise bad_field(f"chat_template_kwargs.{name}"[:200], "expected a plain value of a name of its own.")
    return given
