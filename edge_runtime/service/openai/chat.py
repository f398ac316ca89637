"""Chat: renders messages and tools by the bundle's template, and splits the model's answer into fields."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_runtime.base.errors import ConfigError
from edge_runtime.engine.tokenizer import Tokenizer
from edge_runtime.service.openai.api_errors import ApiError, bad_field, unsupported
from edge_runtime.service.openai.requests import ChatRequest
from edge_runtime.service.openai.tool_calls import json_call, xml_call

CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


class ChatFormat:
    """What the bundle's chat template can do.

    Tool calls are served in two formats, both between <tool_call> and </tool_call>. Hermes (Qwen3 and many others) has
    a JSON object with name and arguments. Qwen3-Coder has <function=NAME> around <parameter=KEY> and its value.

    Args:
        tokenizer: the bundle's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        template = tokenizer.chat_template or ""
        self.has_tools = "tools" in template and CALL_OPEN in template
        self.has_thinking = THINK_CLOSE in template
        self.has_xml_calls = "<function=" in template and "<parameter=" in template

    def prompt(self, request: ChatRequest) -> str:
        """Render the prompt.

        Raises:
            ApiError: the model has no chat template, or one without what the request needs.
        """
        extra = dict(request.template_args)
        if request.tools:
            if not self.has_tools:
                raise unsupported("tools", "this model's chat template has no tool calls in a format served here.")
            offered = [tool.to_json() for tool in request.offered_tools]
            if offered:
                extra["tools"] = offered
        try:
            return self._tokenizer.apply_chat_template([message.to_template() for message in request.messages], **extra)
        except ConfigError as err:
            raise ApiError(
                400, f"{err} Or POST to /v1/completions.", param="messages", code="no_chat_template"
            ) from err
        except (
            TypeError,
            ValueError,
            AttributeError,
            ArithmeticError,
            LookupError,
            RecursionError,
            MemoryError,
        ) as err:
            # the client's own names for the template may collide with those of every template
            raise bad_field("messages", f"the chat template cannot render them: {err}"[:300]) from err

    def starts_thinking(self, prompt: str) -> bool:
        """Whether the prompt has opened the model's thinking."""
        return self.has_thinking and prompt.rstrip().endswith(THINK_OPEN)

    def splitter(self, request: ChatRequest, prompt: str) -> OutputSplitter:
        """Return what splits the answer."""
        tools = request.offered_tools if self.has_tools else ()
        starts_thinking = self.starts_thinking(prompt)
        return OutputSplitter(
            with_calls=bool(tools),
            with_thinking=self.has_thinking,
            thinking=starts_thinking,
            only_one_call=request.parallel_tool_calls is False,
            schemas={tool.name: tool.parameters for tool in tools},
        )


@dataclass(frozen=True)
class Delta:
    """A part of the answer, by the field it belongs to.

    Attributes:
        content: text for the reader.
        reasoning: text the model thinks aloud.
        call: a complete tool call as OpenAI has it.
    """

    content: str = ""
    reasoning: str = ""
    call: dict[str, Any] | None = None


class OutputSplitter:
    """Splits streamed text at the model's markers. Text that may become a marker is held back.

    Args:
        with_calls: tool calls may come.
        with_thinking: thinking may come.
        thinking: the prompt has opened the thinking already.
        only_one_call: what follows the first tool call is dropped.
        schemas: of the tools' parameters by name: the XML format does not say which values are text.
    """

    def __init__(
        self,
        *,
        with_calls: bool,
        with_thinking: bool,
        thinking: bool,
        only_one_call: bool = False,
        schemas: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._options: dict[str, Any] = {
            "with_calls": with_calls,
            "with_thinking": with_thinking,
            "thinking": thinking,
            "only_one_call": only_one_call,
            "schemas": schemas,
        }
        self._schemas = schemas or {}
        self._only_one_call, self._is_over = only_one_call, False
        self._opens = [CALL_OPEN] * with_calls + [THINK_OPEN] * with_thinking
        self._inside = THINK_OPEN if thinking else ""
        self._held = ""
        self._skip_space = thinking

    def count_calls(self, text: str) -> int:
        """Return how many tool calls a whole text holds; what was pushed so far is not touched."""
        if CALL_OPEN not in self._opens or CALL_CLOSE not in text:
            return 0
        return sum(delta.call is not None for delta in OutputSplitter(**self._options).push(text))

    def push(self, text: str) -> list[Delta]:
        """Add text; return what is certain."""
        if self._is_over:
            return []
        if not self._opens and not self._inside:
            return [Delta(content=text)] if text else []
        self._held += text
        out: list[Delta] = []
        while self._step(out):
            pass
        return out

    def flush(self) -> list[Delta]:
        """The text is over: return what was held back; an unfinished call is text."""
        held, inside = self._held, self._inside
        self._held, self._inside = "", ""
        if inside == CALL_OPEN:
            return [Delta(content=CALL_OPEN + held)]
        return self._plain(held, inside)

    def _step(self, out: list[Delta]) -> bool:
        """Handle text up to the next marker; False when more text is needed."""
        markers = {CALL_OPEN: [CALL_CLOSE], THINK_OPEN: [THINK_CLOSE], "": self._opens}[self._inside]
        found = [(at, marker) for marker in markers if (at := self._held.find(marker)) >= 0]
        if found:
            at, marker = min(found)
            before, self._held = self._held[:at], self._held[at + len(marker) :]
            out += self._finish_call(before) if marker == CALL_CLOSE else self._plain(before, self._inside)
            self._inside = marker if marker in self._opens else ""
            self._skip_space = True
            return True
        if self._inside != CALL_OPEN:
            keep = max((_overlap(self._held, marker) for marker in markers), default=0)
            cut = len(self._held) - keep
            out += self._plain(self._held[:cut], self._inside)
            self._held = self._held[cut:]
        return False

    def _plain(self, text: str, inside: str) -> list[Delta]:
        if self._skip_space:  # templates put line breaks around markers
            text = text.lstrip()
            self._skip_space = not text
        if not text:
            return []
        return [Delta(reasoning=text) if inside == THINK_OPEN else Delta(content=text)]

    def _finish_call(self, text: str) -> list[Delta]:
        function = json_call(text) or xml_call(text, self._schemas)
        if function is None:
            return [Delta(content=CALL_OPEN + text + CALL_CLOSE)]  # not a call after all: show what the model wrote
        if self._only_one_call:
            self._is_over, self._held = True, ""
        return [Delta(call={"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function})]


def _overlap(text: str, marker: str) -> int:
    """Length of the longest end of text that starts marker."""
    return next((n for n in range(min(len(text), len(marker) - 1), 0, -1) if text.endswith(marker[:n])), 0)
