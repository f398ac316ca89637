"""The parts of a chat request that only chats have, read strictly from JSON: messages and tools."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edge_runtime.service.openai.api_errors import bad_field, unsupported
from edge_runtime.service.openai.fields import Fields
from edge_runtime.service.openai.requests import Tool

MAX_MESSAGES = 4096
MAX_TOOLS = 128
_ROLES = ("system", "developer", "user", "assistant", "tool")


def parse_tools(fields: Fields) -> tuple[tuple[Tool, ...], str]:
    """Take `tools` and `tool_choice`; return the tools, and 'none', 'auto', 'required' or 'function:NAME'."""
    tools = tuple(_tool(t) for t in fields.objects("tools", MAX_TOOLS))
    return tools, _tool_choice(fields, tools)


def _tool_choice(fields: Fields, tools: Sequence[Tool]) -> str:
    choice = fields.get("tool_choice")
    if choice is None:
        return "auto" if tools else "none"
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
    return choice


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
        name,
        function.text("description") or "",
        function.mapping("parameters") or {"type": "object", "properties": {}},
        strict=function.flag("strict"),
    )
    function.finish()
    fields.finish()
    return tool


def parse_message(fields: Fields) -> dict[str, Any]:
    """Return a message as chat templates expect it."""
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


def parse_template_args(fields: Fields) -> Mapping[str, Any]:
    """Take `chat_template_kwargs`: extra variables of the chat template, plain values only."""
    given = fields.mapping("chat_template_kwargs") or {}
    for name, value in given.items():
        if name in ("messages", "tools", "add_generation_prompt") or not isinstance(value, (str, bool, int, float)):
            raise bad_field(f"chat_template_kwargs.{name}"[:200], "expected a plain value of a name of its own.")
    return given
