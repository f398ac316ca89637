"""Messages and tools of a chat request, as clients send them and as chat templates expect them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from edge_runtime.service.openai.body import Body, FieldError, Label

MAX_TOOLS = 128
_MAX_PARTS = 4096


class TextPart(Body, tag_field="type", tag="text"):
    """A part of a message's content; only text is served."""

    text: str


Content = str | Annotated[list[TextPart], Meta(max_length=_MAX_PARTS)]


class _PlainMessage(Body, tag_field="role"):
    content: Content
    name: str | None = None

    template_role: ClassVar[str] = "system"

    def to_template(self) -> dict[str, Any]:
        """Return the message as chat templates expect it."""
        return {"role": self.template_role, "content": _text(self.content), **_given(name=self.name)}


class SystemMessage(_PlainMessage, tag="system"):
    """Instructions for the whole conversation."""


class DeveloperMessage(_PlainMessage, tag="developer"):
    """The newer name of a system message."""


class UserMessage(_PlainMessage, tag="user"):
    """What a user said."""

    template_role: ClassVar[str] = "user"


class ToolMessage(_PlainMessage, tag="tool"):
    """What a tool answered."""

    tool_call_id: str | None = None

    template_role: ClassVar[str] = "tool"

    def to_template(self) -> dict[str, Any]:
        """Return the message as chat templates expect it."""
        return {**super().to_template(), "tool_call_id": self.tool_call_id or ""}


class CalledFunction(Body):
    """A function the model called; `arguments` is JSON in a string."""

    name: str
    arguments: str | None = None
    parsed_arguments: Label = None

    def __post_init__(self) -> None:
        try:
            self.parse()
        except (ValueError, RecursionError) as err:
            raise FieldError("arguments", "expected JSON in a string.") from err

    def parse(self) -> Any:
        """Return the arguments as data: templates print objects, not strings of them."""
        return json.loads(self.arguments or "{}")


class ToolCall(Body):
    """A call the model made in an earlier answer."""

    function: CalledFunction
    id: str | None = None
    type: Literal["function"] | None = None
    index: Label = None

    def to_template(self) -> dict[str, Any]:
        """Return the call as chat templates expect it."""
        function = {"name": self.function.name, "arguments": self.function.parse()}
        return {"id": self.id or "", "type": "function", "function": function}


class AssistantMessage(Body, tag_field="role", tag="assistant"):
    """An earlier answer. It may be sent back as it came, with what clients add when they read it."""

    content: Content | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=MAX_TOOLS)] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    index: Label = None
    parsed: Label = None
    annotations: Label = None
    audio: None = None
    function_call: None = None

    def to_template(self) -> dict[str, Any]:
        """Return the message as chat templates expect it; a refusal is what was said in place of content."""
        reasoning = self.reasoning if self.reasoning_content is None else self.reasoning_content
        calls = [call.to_template() for call in self.tool_calls or []] or None
        content = self.refusal if self.content is None else _text(self.content)
        rest = _given(name=self.name, reasoning_content=reasoning, tool_calls=calls)
        return {"role": "assistant", "content": content or "", **rest}


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


def _text(content: Content) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


_NAME = Meta(
    # Python's $ also matches before a line break at the end
    pattern=r"^[\w.-]{1,64}$(?!\n)",
    description="1 to 64 letters, digits, '_', '-' or '.'",
)


class ToolFunction(Body):
    """A function as a client describes it; `parameters` is the JSON schema of its arguments."""

    name: Annotated[str, _NAME]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Body, tag_field="type", tag="function"):
    """A function the model may call."""

    function: ToolFunction


class FunctionName(Body):
    """A function by its name."""

    name: str


class FunctionChoice(Body, tag_field="type", tag="function"):
    """The one function the model must call."""

    function: FunctionName


@dataclass(frozen=True)
class Tool:
    """A function the model may call, with the defaults filled in.

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

    @classmethod
    def of(cls, given: FunctionTool) -> Tool:
        """Fill in the defaults."""
        function = given.function
        parameters = function.parameters or {"type": "object", "properties": {}}
        return cls(function.name, function.description or "", parameters, bool(function.strict))

    def to_json(self) -> dict[str, Any]:
        """Return it as chat templates expect it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}
