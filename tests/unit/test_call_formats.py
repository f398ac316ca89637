"""Every format of tool calls: found by its template's marks, read from a stream, forced by its grammar."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import MODEL

from edge_runtime.base.errors import RequestError
from edge_runtime.engine.tokenizer import Tokenizer
from edge_runtime.service.openai.call_formats import CallFormat, format_of
from edge_runtime.service.openai.call_formats.base import marks_of
from edge_runtime.service.openai.chat import ChatFormat
from edge_runtime.service.openai.formats import Format
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
    "Gemma 4": (
        "{% if tools %}<|tool_call>call:x{<|\"|>}<tool_call|>",
        '<|tool_call>call:weather{city:<|"|>New York<|"|>,days:3,unit:<|"|>C<|"|>}<tool_call|>',
    ),
    "LFM2": (
        "{% if tools %}List of tools: <|tool_list_start|>",
        '<|tool_call_start|>[weather(city="New York", days=3, unit="C")]<|tool_call_end|>',
    ),
    "MiniMax-M2": (
        "{% if tools %}{% set x = ']~b]<minimax:tool_call>' %}<invoke name=",
        '<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">New York</parameter>\n<parameter name="days">'
        '3</parameter>\n<parameter name="unit">C</parameter>\n</invoke>\n</minimax:tool_call>',
    ),
}  # fmt: skip


def found(template: str) -> CallFormat:
    calls = format_of(template)
    assert calls is not None
    return calls


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary((MODEL / "tokenizer.json").read_bytes(), 4096, (0,))


def allows(grammar: Any, text: str, tokenizer: Tokenizer | None = None) -> bool:
    """Whether a grammar lets a whole text be written."""
    tokenizer = Tokenizer.from_folder(MODEL) if tokenizer is None else tokenizer
    for token in tokenizer.encode(text, add_special_tokens=False):
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


ANSWERS = {
    "object": (Format("json_object"), '{"a":[1]}', '["a"]'),
    "schema": (
        Format("json_schema", {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}),
        '{"a":1}', '{"a":"1"}',
    ),
    "text of a schema": (Format("json_schema", {"type": "string"}), '"<tool_call> is a mark"', "Sunny"),
    "regex": (Format("regex", pattern=r"[a-c]{2}/\d\/<"), "ab/1/<", "ab/x/<"),
}  # fmt: skip


@pytest.mark.parametrize("wanted", ANSWERS)
@pytest.mark.parametrize(("template", "call"), CASES.values(), ids=CASES.keys())
def test_beside_a_format_there_are_calls_or_an_answer(
    vocabulary: Vocabulary, template: str, call: str, wanted: str
) -> None:
    calls, (given, answer, wrong) = found(template), ANSWERS[wanted]
    tokenizer = Tokenizer.from_folder(MODEL)

    def may_write(text: str, *, only_one_call: bool = False) -> bool:
        """Whether a whole text may be written and end there."""
        grammar = vocabulary.of_calls_or_format(TOOLS, calls, given, only_one_call=only_one_call)
        return allows(grammar, text, tokenizer) and (grammar.is_complete or bool(grammar.allowed()[0]))

    assert may_write(answer)
    assert may_write(call)
    assert may_write(f"{call}\n{call}")
    assert may_write(call, only_one_call=True)
    assert not may_write(f"{call}\n{call}", only_one_call=True)
    assert not may_write(wrong)
    for text in (call.replace("3", "x"), call[:-1], f"Sunny. {call}", answer + call, call + answer):
        assert not may_write(text), text


def test_a_call_of_any_tool_is_free_where_it_is_not_strict(vocabulary: Vocabulary) -> None:
    calls, given = found(CASES["Hermes, as Qwen3"][0]), Format("json_object")
    for name, is_offered in (("now", True), ("later", False)):
        grammar = vocabulary.of_calls_or_format(TOOLS, calls, given, only_one_call=False)
        text = f'<tool_call>\n{{"name": "{name}", "arguments": {{"anything": [1]}}}}\n</tool_call>'
        assert allows(grammar, text) is is_offered


def test_tools_that_explode_beside_a_format_are_refused(vocabulary: Vocabulary) -> None:
    calls, given = found(CASES["Hermes, as Qwen3"][0]), Format("json_object")
    parts = [{"type": "integer", "multipleOf": prime} for prime in (2, 3, 5, 7, 11, 13, 17, 19, 23)]
    bomb = {"type": "object", "properties": {"a": {"allOf": parts}}, "required": ["a"]}
    with pytest.raises(RequestError, match="grammar: "):
        vocabulary.of_calls_or_format([Tool("f", "", bomb, strict=True)], calls, given, only_one_call=True)
    many = [Tool(f"f{i}", "", PARAMETERS, strict=True) for i in range(2000)]
    with pytest.raises(RequestError, match="grammar: expected at most"):
        vocabulary.of_calls_or_format(many, calls, given, only_one_call=True)


@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_marks_in_an_answer_of_a_format_are_its_text(size: int) -> None:
    calls, call = found(CASES["Hermes, as Qwen3"][0]), CASES["Hermes, as Qwen3"][1]
    answer = json.dumps({"text": "<think>a</think><tool_call>b</tool_call>"})

    def split(text: str, *, thinking: bool) -> tuple[str, str, int]:
        splitter = OutputSplitter(
            with_calls=True, with_thinking=False, thinking=thinking, calls=calls, text_is_last=True
        )  # fmt: skip
        deltas = [d for at in range(0, len(text), size) for d in splitter.push(text[at : at + size])]
        deltas += splitter.flush()
        made = [d for d in deltas if d.call]
        assert splitter.count_calls(text) == len(made)
        return "".join(d.reasoning for d in deltas), "".join(d.content for d in deltas), len(made)

    assert split(answer, thinking=False) == ("", answer, 0)
    assert split(f"Hm.</think>\n\n{answer}", thinking=True) == ("Hm.", answer, 0)
    assert split(f"{call}\n{call}", thinking=False) == ("", "", 2)
    assert split(f"Hm.</think>{call}", thinking=True) == ("Hm.", "", 1)
    without = OutputSplitter(with_calls=False, with_thinking=False, thinking=True, text_is_last=True)
    text = f"Hm.</think>\n\n{answer}"
    deltas = [d for at in range(0, len(text), size) for d in without.push(text[at : at + size])] + without.flush()
    assert ("".join(d.reasoning for d in deltas), "".join(d.content for d in deltas)) == ("Hm.", answer)


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


NESTED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "when": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"type": "boolean"}}]},
        "where": {"$ref": "#/$defs/place"}, "any": {}, "level": {"enum": ["a,b", 2, None]},
    },
    "required": ["where"],
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "in": {"$ref": "#/$defs/place"}, "x": {"type": "number"}},
            "required": ["x"],
        },
    },
}  # fmt: skip
PLACED = {
    "any": {"k": ["v"]},
    "level": "a,b",
    "when": [True, False],
    "where": {"in": {"x": 1}, "name": "It's", "x": -2.5},
}
NESTED_CALLS = {
    "Gemma 4": '<|tool_call>call:go{any:{k:[<|"|>v<|"|>]},level:<|"|>a,b<|"|>,when:[true,false],where:{in:{x:1},'
    'name:<|"|>It\'s<|"|>,x:-2.5}}<tool_call|>',
    "LFM2": '<|tool_call_start|>[go(any={"k": ["v"]}, level="a,b", when=[True, False], where={"in": {"x": 1}, '
    '"name": "It\'s", "x": -2.5})]<|tool_call_end|>',
}  # fmt: skip


@pytest.mark.parametrize("name", NESTED_CALLS)
def test_values_of_every_kind(vocabulary: Vocabulary, name: str) -> None:
    calls, call, tools = found(CASES[name][0]), NESTED_CALLS[name], (Tool("go", "", NESTED, strict=True),)
    splitter = OutputSplitter(with_calls=True, with_thinking=False, thinking=False, calls=calls)
    (made,) = [d.call["function"] for d in splitter.push(call) if d.call]
    assert (made["name"], json.loads(made["arguments"])) == ("go", PLACED)
    assert allows(vocabulary.of_tool_call(tools, calls), call)
    for old, new in (("-2.5", "no"), ("x", "y"), ("1", "1,1"), ("rue", "rre"), ("a,b", "c")):
        assert not allows(vocabulary.of_tool_call(tools, calls), call.replace(old, new)), old
    assert allows(vocabulary.of_tool_call([Tool("go", "", {"type": "object"})], calls), call)
    bounded = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}}
    with pytest.raises(RequestError, match="go: 'minimum' cannot be held to in this model's format"):
        vocabulary.of_strict_tools([Tool("go", "", bounded, strict=True)], calls)
    vocabulary.of_tool_call([Tool("go", "", bounded)], calls)


def test_what_python_and_json_write_is_read() -> None:
    calls = found(CASES["LFM2"][0])
    quoted = r"""[a(x='it\'s \\', y=None, z=["q"]), b(), c(k=007)]"""
    assert calls.read(quoted, {}) is None  # no number begins so
    made = calls.read(quoted.replace("007", "-7e2"), {})
    assert made is not None
    assert [(name, json.loads(text)) for name, text in made] == [
        ("a", {"x": "it's \\", "y": None, "z": ["q"]}), ("b", {}), ("c", {"k": -700.0}),
    ]  # fmt: skip
    assert calls.read('[{"name": "a", "arguments": {"x": 1}}]', {}) == [("a", '{"x": 1}')]
    known = {"a": {"properties": {"x": {"type": "string"}}}}
    assert calls.read("a(x=12)", known) == [("a", '{"x": "12"}')]
    for wrong in ("[a(x=1]", "[a(x)]", "[a(1)]", "a(x=1) b", "[" * 9000 + "a", "a(x=" + "[" * 9000, "a(x='", 'a(x="\\'):
        assert calls.read(wrong, {}) is None, wrong[:20]


@pytest.fixture(scope="module")
def with_special_marks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Vocabulary, Tokenizer]:
    """The bundled tokenizer with the marks of Gemma and LFM2 as special tokens."""
    folder = tmp_path_factory.mktemp("marked")
    data = json.loads((MODEL / "tokenizer.json").read_text())
    marks = [mark for name in NESTED_CALLS for mark in marks_of(found(CASES[name][0]))]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    data["added_tokens"] += [{"id": 4096 + i, "content": mark, **plain} for i, mark in enumerate(marks)]
    (folder / "tokenizer.json").write_text(json.dumps(data))
    (folder / "tokenizer_config.json").write_bytes((MODEL / "tokenizer_config.json").read_bytes())
    vocabulary = Vocabulary((folder / "tokenizer.json").read_bytes(), 4096 + len(marks), (0,))
    return vocabulary, Tokenizer.from_folder(folder)


@pytest.mark.parametrize("name", NESTED_CALLS)
def test_marks_that_are_special_tokens(with_special_marks: tuple[Vocabulary, Tokenizer], name: str) -> None:
    vocabulary, tokenizer = with_special_marks
    calls, (_, call) = found(CASES[name][0]), CASES[name]
    assert allows(vocabulary.of_tool_call(TOOLS, calls), call, tokenizer)
    assert not allows(vocabulary.of_tool_call(TOOLS, calls), call)  # the same letters are no marks
    assert not allows(vocabulary.of_tool_call(TOOLS, calls), call.replace("3", "x"), tokenizer)
    assert allows(vocabulary.of_strict_tools(TOOLS, calls), f"Let me see. {call} And {call} so on", tokenizer)
    assert not allows(vocabulary.of_strict_tools(TOOLS, calls), f"So {call}".replace("3", "x"), tokenizer)
    nested = Tool("go", "", NESTED, strict=True)
    assert allows(vocabulary.of_tool_call([nested], calls), NESTED_CALLS[name], tokenizer)
    templated: Any = SimpleNamespace(chat_template=CASES[name][0], special_texts=tokenizer.special_texts)
    asked: Any = SimpleNamespace(offered_tools=TOOLS)
    shown = ChatFormat(templated).shown(asked)
    assert {tokenizer.special_texts[token] for token in shown} == set(marks_of(calls))
    asked.offered_tools = ()
    assert ChatFormat(templated).shown(asked) == frozenset()


def test_a_template_without_marks_has_no_format() -> None:
    assert format_of("{{ messages }}") is None
    assert format_of("{% if tools %}{{ tools }}") is None
    assert format_of("<tool_call>") is None
