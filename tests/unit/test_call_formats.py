"""Every format of tool calls: found by its template's marks, read from a stream, forced by its grammar."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import MODEL

from edge_runtime.engine.tokenizer import Tokenizer
from edge_runtime.service.openai.call_formats import CallFormat, format_of
from edge_runtime.service.openai.grammar import Vocabulary
from edge_runtime.service.openai.messages import Tool
from edge_runtime.service.openai.output_splitter import OutputSplitter

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"type": "string", "enum": ["C", "F"]},
        "place": {"type": "object", "properties": {"x": {"type": "number"}}, "additionalProperties": False},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}  # fmt: skip
TOOLS = (Tool("weather", "", PARAMETERS, strict=True), Tool("now", "", {"type": "object", "properties": {}}))
ARGUMENTS = {"city": "New York", "days": 3, "unit": "C"}
TEXT = json.dumps(ARGUMENTS)
V3 = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}\n```json\n{}\n```<｜tool▁call▁end｜>"
V31 = "<｜tool▁call▁begin｜>{}<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
LIST = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
GLM = (
    "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>New York</arg_value>\n<arg_key>days</arg_key>\n"
    "<arg_value>3</arg_value>\n<arg_key>unit</arg_key>\n<arg_value>C</arg_value>\n</tool_call>"
)
# marks of the template, and a call as the model writes it
CASES: dict[str, tuple[str, str]] = {
    "Hermes, as Qwen3": (
        "{% if tools %}<tool_call>", f'<tool_call>\n{{"name": "weather", "arguments": {TEXT}}}\n</tool_call>',
    ),
    "XML, as Qwen3-Coder and Nemotron 3": (
        "{% if tools %}<tool_call><function=x><parameter=y>",
        "<tool_call>\n<function=weather>\n<parameter=city>\nNew York\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        "<parameter=unit>\nC\n</parameter>\n</function>\n</tool_call>",
    ),
    "GLM 4.5": ("{% if tools %}<tool_call>x\n<arg_key>k</arg_key>\n<arg_value>v</arg_value>", GLM),
    "GLM 4.7": (
        "{% if tools %}<tool_call>x<arg_key>k</arg_key><arg_value>v</arg_value>", GLM.replace("\n", ""),
    ),
    "DeepSeek V3": (
        "{% if tools %}<｜tool▁calls▁begin｜>\n```json", V3.format("weather", TEXT).join(LIST),
    ),
    "DeepSeek V3.1": ("{% if tools %}<｜tool▁calls▁begin｜>", V31.format("weather", TEXT).join(LIST)),
    "Nemotron 2": (
        "{% if tools %}<TOOLCALL>", f'<TOOLCALL>[{{"name": "weather", "arguments": {TEXT}}}]</TOOLCALL>',
    ),
}  # fmt: skip


def found(template: str) -> CallFormat:
    calls = format_of(template)
    assert calls is not None
    return calls


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary((MODEL / "tokenizer.json").read_bytes(), 4096, (0,))


def allows(grammar: Any, text: str) -> bool:
    """Whether a grammar lets a whole text be written."""
    for token in Tokenizer.from_folder(MODEL).encode(text):
        if not grammar.allowed()[token]:
            return False
        grammar.accept(token)
    return True


@pytest.mark.parametrize("size", [1, 5, 10_000])
@pytest.mark.parametrize(("template", "call"), CASES.values(), ids=CASES.keys())
def test_a_streamed_call_comes_out_whole(template: str, call: str, size: int) -> None:
    schemas = {tool.name: tool.parameters for tool in TOOLS}
    splitter = OutputSplitter(
        with_calls=True, with_thinking=True, thinking=True, schemas=schemas, calls=found(template)
    )  # fmt: skip
    text = f"Hm. </think>Let me see. {call}"
    deltas = [d for at in range(0, len(text), size) for d in splitter.push(text[at : at + size])] + splitter.flush()
    assert "".join(d.reasoning for d in deltas).strip() == "Hm."
    assert "".join(d.content for d in deltas).strip() == "Let me see."
    (made,) = [d.call["function"] for d in deltas if d.call]
    assert (made["name"], json.loads(made["arguments"])) == ("weather", ARGUMENTS)
    assert splitter.count_calls(text) == 1


@pytest.mark.parametrize(("template", "call"), CASES.values(), ids=CASES.keys())
def test_a_forced_call_is_one_the_tools_take(vocabulary: Vocabulary, template: str, call: str) -> None:
    calls = found(template)
    assert allows(vocabulary.of_tool_call(TOOLS, calls), call)
    wrong = vocabulary.of_tool_call(TOOLS, calls)
    assert not allows(wrong, call.replace("3", "x"))
    assert not allows(vocabulary.of_tool_call(TOOLS[1:], calls), call)
    assert not allows(vocabulary.of_tool_call(TOOLS, calls), "Sunny. " + call)


@pytest.mark.parametrize(("template", "call"), CASES.values(), ids=CASES.keys())
def test_strict_tools_are_held_to_in_free_text(vocabulary: Vocabulary, template: str, call: str) -> None:
    calls = found(template)
    assert allows(vocabulary.of_strict_tools(TOOLS, calls), f"Let me see. {call} And {call} so on")
    assert not allows(vocabulary.of_strict_tools(TOOLS, calls), call.replace("3", "x"))


@pytest.mark.parametrize(("template", "call"), CASES.values(), ids=CASES.keys())
def test_what_is_no_call_is_shown(template: str, call: str) -> None:
    calls = found(template)
    splitter = OutputSplitter(with_calls=True, with_thinking=False, thinking=False, calls=calls)
    for text in (f"{calls.opens} {calls.closes}", f"{calls.opens}[[[{calls.closes}", f"{calls.opens}never closed"):
        deltas = splitter.push(text) + splitter.flush()
        assert "".join(d.content for d in deltas).replace(" ", "") == text.replace(" ", "")
        assert not [d for d in deltas if d.call]
    assert calls.read("[" * 5000, {}) is None


def test_several_calls_of_one_list() -> None:
    both = "\n".join(V3.format(name, "{}") for name in ("weather", "now")).join(LIST)
    for only_one, names in ((False, ["weather", "now"]), (True, ["weather"])):
        splitter = OutputSplitter(
            with_calls=True, with_thinking=False, thinking=False, only_one_call=only_one,
            calls=found(CASES["DeepSeek V3"][0]),
        )  # fmt: skip
        assert [d.call["function"]["name"] for d in splitter.push(both) if d.call] == names


def test_a_template_without_marks_has_no_format() -> None:
    assert format_of("{{ messages }}") is None
    assert format_of("{% if tools %}{{ tools }}") is None
    assert format_of("<tool_call>") is None
