"""Chat: renders messages and tools by the bundle's template, and knows what the template can do."""

from __future__ import annotations

from typing import Any

from edge_runtime.base.errors import ConfigError
from edge_runtime.engine.tokenizer import Tokenizer
from edge_runtime.service.openai.api_errors import ApiError, bad_field, unsupported
from edge_runtime.service.openai.call_formats import format_of
from edge_runtime.service.openai.call_formats.base import marks_of
from edge_runtime.service.openai.harmony import (
    FINAL,
    TO_FINAL,
    AnswerSplitter,
    HarmonySplitter,
    is_harmony,
    shown_tokens,
)
from edge_runtime.service.openai.output_splitter import OutputSplitter
from edge_runtime.service.openai.requests import ChatRequest
from edge_runtime.service.openai.thinking import thinking_of


class ChatFormat:
    """What the bundle's chat template can do.

    Args:
        tokenizer: the bundle's.

    Attributes:
        calls: how the model writes tool calls; None: it has none, or in no format served here.
        thinking: marks of what it thinks aloud; None: it does not, or as gpt-oss does.
        is_harmony: it writes as gpt-oss does.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        template = tokenizer.chat_template or ""
        self.calls = format_of(template)
        self.thinking = thinking_of(template)
        self.is_harmony = is_harmony(template)
        self._has_effort = "reasoning_effort" in template
        self._has_switch = "enable_thinking" in template

    def prompt(self, request: ChatRequest) -> str:
        """Render the prompt.

        Raises:
            ApiError: the model has no chat template, or one without what the request needs.
        """
        extra = {**self._effort(request.reasoning_effort), **request.template_args}
        if request.tools:
            if self.calls is None and not self.is_harmony:
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

    def _effort(self, effort: str | None) -> dict[str, Any]:
        """Return the template's variables for how much the model is to think.

        Raises:
            ApiError: the template does not take it.
        """
        if effort is None:
            return {}
        if self._has_effort:
            return {"reasoning_effort": effort}
        if self._has_switch and effort == "none":
            return {"enable_thinking": False}
        known = "only 'none' is accepted" if self._has_switch else "leave it out"
        raise unsupported("reasoning_effort", f"this model's chat template has no degrees of it; {known}.")

    def starts_thinking(self, prompt: str) -> bool:
        """Whether the prompt has opened the model's thinking."""
        return self.thinking is not None and self.thinking.is_open(prompt)

    def thinking_end(self, prompt: str) -> tuple[str, str] | None:
        """Return the mark behind which the answer begins, and the text that gets there; None: it begins at once."""
        if self.is_harmony:
            return FINAL, TO_FINAL
        if self.thinking is None or not self.thinking.is_open(prompt):
            return None
        return self.thinking.closes, f"{self.thinking.closes}\n\n"

    def shown(self, request: ChatRequest) -> frozenset[int]:
        """Return the special tokens that the answer is made of: without them in the text it cannot be read."""
        special = self._tokenizer.special_texts
        if self.is_harmony:
            return shown_tokens(special)
        marks: set[str] = set() if self.thinking is None else set(self.thinking.tokens)
        if self.calls is not None and request.offered_tools:
            marks.update(marks_of(self.calls))
        return frozenset(token for token, text in special.items() if text in marks)

    def splitter(self, request: ChatRequest, prompt: str) -> AnswerSplitter:
        """Return what splits the answer."""
        if self.is_harmony:
            return HarmonySplitter(
                with_calls=bool(request.offered_tools),
                only_one_call=request.parallel_tool_calls is False,
                text_is_last=request.format is not None,
            )
        tools = request.offered_tools if self.calls is not None else ()
        starts_thinking = self.starts_thinking(prompt)
        return OutputSplitter(
            with_calls=bool(tools),
            with_thinking=self.thinking is not None
            and request.format is None,  # a grammar lets no other thinking begin
            thinking=starts_thinking,
            only_one_call=request.parallel_tool_calls is False,
            schemas={tool.name: tool.parameters for tool in tools},
            calls=self.calls,
            marks=self.thinking,
            text_is_last=request.format is not None,
        )
