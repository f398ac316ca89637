"""Marks of thinking: found by the chat template, split from a stream, shown though they are special tokens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edge_runtime.cli.chat.answer import shown_in, splitter_for
from edge_runtime.service.openai.call_formats import format_of
from edge_runtime.service.openai.chat import ChatFormat
from edge_runtime.service.openai.output_splitter import OutputSplitter
from edge_runtime.service.openai.thinking import GEMMA, PLAIN, Thinking, thinking_of

GEMMA_TEMPLATE = "{% if tools %}<|tool_call>call:x{<|\"|>}<tool_call|>{% endif %}{{ '<|channel>thought\\n<channel|>' }}"
PLAIN_TEMPLATE = "{% if tools %}<tool_call>{% endif %}{{ '<think>\\n</think>' }}"
CALLS = {
    "gemma": (GEMMA_TEMPLATE, '<|tool_call>call:weather{city:<|"|>Paris<|"|>}<tool_call|>'),
    "plain": (PLAIN_TEMPLATE, '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'),
}


@pytest.mark.parametrize(
    ("template", "marks"),
    [
        (GEMMA_TEMPLATE, GEMMA), (PLAIN_TEMPLATE, PLAIN), ("{{ messages }}", None),
        ("<|start|>assistant<|channel|>analysis<|message|>", None),
    ],
)  # fmt: skip
def test_a_template_says_how_its_model_thinks(template: str, marks: Thinking | None) -> None:
    assert thinking_of(template) == marks


@pytest.mark.parametrize("size", [1, 3, 7, 10_000])
@pytest.mark.parametrize("name", CALLS)
def test_thinking_a_call_and_an_answer_come_apart(name: str, size: int) -> None:
    template, call = CALLS[name]
    marks = thinking_of(template)
    assert marks is not None
    for opened, text in (
        (False, f"{marks.opens}\nHm.{marks.closes}\nLet me see. {call}"),
        (True, f"\nHm.{marks.closes}\nLet me see. {call}"),
        (False, f"Let me see. {call}"),
    ):
        splitter = OutputSplitter(
            with_calls=True, with_thinking=True, thinking=opened, calls=format_of(template), marks=marks
        )  # fmt: skip
        deltas = [d for at in range(0, len(text), size) for d in splitter.push(text[at : at + size])] + splitter.flush()
        assert "".join(d.reasoning for d in deltas).strip() == ("Hm." if marks.closes in text else "")
        assert "".join(d.content for d in deltas).strip() == "Let me see."
        (made,) = [d.call["function"] for d in deltas if d.call]
        assert made == {"name": "weather", "arguments": '{"city": "Paris"}'}


@pytest.mark.parametrize("name", CALLS)
def test_marks_that_are_special_tokens_are_shown(name: str) -> None:
    template, marks = CALLS[name][0], thinking_of(CALLS[name][0])
    assert marks is not None
    special = dict(enumerate((*marks.tokens, "<|image|>", "<eos>")))
    tokenizer: Any = SimpleNamespace(chat_template=template, special_texts=special)
    asked: Any = SimpleNamespace(offered_tools=(), format=None, parallel_tool_calls=None)
    assert ChatFormat(tokenizer).shown(asked) == shown_in(tokenizer) == {0, 1}


def test_a_prompt_that_has_closed_the_thinking_does_not_begin_it() -> None:
    tokenizer: Any = SimpleNamespace(chat_template=GEMMA_TEMPLATE, special_texts={})
    chat = ChatFormat(tokenizer)
    assert chat.starts_thinking("<|turn>model\n<|channel>thought\n")
    assert chat.thinking_end("<|channel>thought\n") == ("<channel|>", "<channel|>\n\n")
    closed = "<|turn>model\n<|channel>thought\n<channel|>"
    assert not chat.starts_thinking(closed)
    assert chat.thinking_end(closed) is None
    splitter = splitter_for(tokenizer, closed)
    deltas = splitter.push("<|channel>thought\nHm.<channel|>Yes.") + splitter.flush()
    assert ["".join(d.reasoning for d in deltas), "".join(d.content for d in deltas)] == ["Hm.", "Yes."]
