"""What a client may ask for: the two generation requests as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_runtime.engine.sampler import SamplingParams


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
    """A function the model may call.

    Attributes:
        name: of the function.
        description: for the model.
        parameters: JSON schema of its arguments.
        strict: a call the model makes of its own accord must follow the schema, too.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool = False

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
        parallel_calls: whether an answer may hold several tool calls.
        template_args: extra variables of the chat template.
    """

    messages: tuple[dict[str, Any], ...]
    tools: tuple[Tool, ...]
    tool_choice: str
    parallel_calls: bool
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
