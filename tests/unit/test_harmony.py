"""gpt-oss' format: thinking, calls and answers taken apart, and the special tokens they are made of shown."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import MODEL

from edge_runtime.engine.continuation import Continuation
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.engine.tokenizer import Tokenizer
from edge_runtime.service.openai.chat import ChatFormat
from edge_runtime.service.openai.formats import Format
from edge_runtime.service.openai.grammar import Vocabulary
from edge_runtime.service.openai.harmony import FINAL, MARKS, TO_FINAL, HarmonySplitter, shown_tokens
from edge_runtime.service.openai.messages import Tool

THOUGHT = "<|channel|>analysis<|message|>The user asks: 3 < 4?<|end|>"
ANSWER = "<|start|>assistant<|channel|>final<|message|>Yes, 3 < 4."
CALL = (
    "<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
    '{"city": "New York", "days": 3}'
)


def split(text: str, size: int, **options: Any) -> tuple[str, str, list[dict[str, Any]]]:
    splitter = HarmonySplitter(**{"with_calls": True} | options)
    deltas = [d for at in range(0, len(text), size) for d in splitter.push(text[at : at + size])] + splitter.flush()
    calls = [d.call["function"] for d in deltas if d.call]
    return "".join(d.reasoning for d in deltas), "".join(d.content for d in deltas), calls


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_thinking_and_answer_come_apart(size: int) -> None:
    assert split(THOUGHT + ANSWER, size) == ("The user asks: 3 < 4?", "Yes, 3 < 4.", [])
    assert split(THOUGHT + ANSWER + "<|return|>", size) == ("The user asks: 3 < 4?", "Yes, 3 < 4.", [])
    assert split("<|channel|>final<|message|>At once.", size) == ("", "At once.", [])


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("end", ["", "<|call|>"])
def test_a_call_comes_out_whole(size: int, end: str) -> None:
    thought, text, (call,) = split(THOUGHT + CALL + end, size)
    assert (thought, text, call["name"]) == ("The user asks: 3 < 4?", "", "weather")
    assert json.loads(call["arguments"]) == {"city": "New York", "days": 3}
    other = "<|start|>assistant to=functions.weather<|channel|>commentary json<|message|>{}"
    assert split(other + end, size)[2] == [{"name": "weather", "arguments": "{}"}]


def test_several_calls_or_only_one() -> None:
    both = CALL + "<|call|>" + CALL + "<|call|>"
    assert len(split(both, 5)[2]) == 2
    assert len(split(both, 5, only_one_call=True)[2]) == 1
    splitter = HarmonySplitter(with_calls=True)
    assert splitter.count_calls(both) == 2
    assert splitter.count_calls(THOUGHT + ANSWER) == 0


def test_what_is_no_call_is_shown() -> None:
    assert split(CALL + ",,", 5) == ("", '{"city": "New York", "days": 3},,', [])
    assert split("Plain text.", 3) == ("", "Plain text.", [])
    assert split(CALL, 5, with_calls=False)[1] == '{"city": "New York", "days": 3}'
    assert split("<|channel|>commentary<|message|>I will look.<|end|>" + CALL, 4)[1] == "I will look."


def test_special_tokens_are_text_where_they_are_wanted() -> None:
    tokenizer = Tokenizer.from_folder(MODEL)
    special, text = next(iter(tokenizer.special_texts.items()))
    ids = [*tokenizer.encode("import", add_special_tokens=False), special, *tokenizer.encode(" os")]

    def written(shown: frozenset[int]) -> str:
        params = SamplingParams(max_tokens=len(ids), shown=shown, ignore_eos=True)
        following = Continuation(tokenizer, params, np.array(ids[:1], np.int32), eos=(), context=100)
        logits = np.zeros((len(ids), tokenizer.vocab_size), np.float32)
        logits[range(len(ids)), ids] = 1
        return "".join(following.next(row).text for row in logits)

    assert written(frozenset()) == "import os"
    assert written(frozenset([special])) == f"import{text} os"
    assert shown_tokens({1: "<|channel|>", 2: "<|endoftext|>", 3: "<|call|>"}) == {1, 3}


def test_a_template_chooses_the_format() -> None:
    special = {1: "<|channel|>", 2: "<|message|>", 3: "<|endoftext|>"}
    tokenizer: Any = SimpleNamespace(chat_template="<|start|>x<|channel|>y<|message|>", special_texts=special)
    chat = ChatFormat(tokenizer)
    asked: Any = SimpleNamespace(offered_tools=())
    assert chat.shown(asked) == {1, 2}
    assert chat.thinking_end("whatever") == (FINAL, TO_FINAL)
    other = ChatFormat(SimpleNamespace(chat_template="<think></think>", special_texts=special))  # type: ignore[arg-type]
    assert other.shown(asked) == frozenset()
    assert other.thinking_end("a <think>\n") == ("</think>", "</think>\n\n")
    assert other.thinking_end("a") is None


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Vocabulary, Tokenizer]:
    """The bundled tokenizer with the format's marks as special tokens."""
    folder = tmp_path_factory.mktemp("harmony")
    data = json.loads((MODEL / "tokenizer.json").read_text())
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    data["added_tokens"] += [{"id": 4096 + i, "content": mark, **plain} for i, mark in enumerate(MARKS)]
    (folder / "tokenizer.json").write_text(json.dumps(data))
    (folder / "tokenizer_config.json").write_bytes((MODEL / "tokenizer_config.json").read_bytes())
    ends = tuple(4096 + MARKS.index(mark) for mark in ("<|return|>", "<|call|>"))
    return Vocabulary((folder / "tokenizer.json").read_bytes(), 4096 + len(MARKS), ends), Tokenizer.from_folder(folder)


WEATHER: dict[str, Any] = {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"], "additionalProperties": False,
}  # fmt: skip
TOOLS = (Tool("weather", "", WEATHER, strict=True), Tool("now", "", {"type": "object", "properties": {}}))


def taken(grammar: Any, tokenizer: Tokenizer, text: str) -> int:
    """How many tokens of a text a grammar takes."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    for count, token in enumerate(ids):
        if not grammar.allowed()[token]:
            return count
        grammar.accept(token)
    return len(ids)


def takes(grammar: Any, tokenizer: Tokenizer, text: str) -> bool:
    return taken(grammar, tokenizer, text) == len(tokenizer.encode(text, add_special_tokens=False))


def test_a_forced_call_comes_after_thinking(marked: tuple[Vocabulary, Tokenizer]) -> None:
    vocabulary, tokenizer = marked
    grammar = vocabulary.of_harmony(TOOLS, 100)
    text = THOUGHT + CALL
    assert takes(grammar, tokenizer, text)
    assert grammar.is_complete
    assert split(text, 5)[2] == [{"name": "weather", "arguments": '{"city": "New York", "days": 3}'}]
    assert takes(vocabulary.of_harmony(TOOLS, 100), tokenizer, CALL.removeprefix("<|start|>assistant"))
    for wrong in (THOUGHT + ANSWER, text.replace("3}", '"x"}'), text.replace("weather", "when"), ANSWER, "Hello"):
        assert not takes(vocabulary.of_harmony(TOOLS, 100), tokenizer, wrong), wrong


def test_thinking_before_a_forced_call_is_ended_in_time(marked: tuple[Vocabulary, Tokenizer]) -> None:
    """After so many tokens only the end of the thought is left."""
    vocabulary, tokenizer = marked
    begun = "<|channel|>analysis<|message|>"
    ids = tokenizer.encode(begun, add_special_tokens=False)
    grammar = vocabulary.of_harmony(TOOLS, 12)
    assert takes(grammar, tokenizer, begun)
    word = tokenizer.encode(" a", add_special_tokens=False)[0]
    count = 0
    while grammar.allowed()[word]:
        grammar.accept(word)
        count += 1
        assert count < 20
    assert 8 <= count <= 12
    assert [*np.flatnonzero(grammar.allowed())] == tokenizer.encode("<|end|>", add_special_tokens=False)
    assert not vocabulary.of_harmony(TOOLS, 0).allowed()[tokenizer.encode("analysis", add_special_tokens=False)[0]]
    assert vocabulary.of_harmony(TOOLS, 0).allowed()[ids[0]]


def test_strict_tools_are_held_to_among_messages(marked: tuple[Vocabulary, Tokenizer]) -> None:
    vocabulary, tokenizer = marked
    early = (
        THOUGHT + '<|start|>assistant to=functions.weather<|channel|>commentary json<|message|>{"city": "x", "days": 1}'
    )
    for text in (THOUGHT + ANSWER, THOUGHT + CALL, early):
        assert takes(vocabulary.of_harmony(TOOLS, None), tokenizer, text), text
    for wrong in (
        THOUGHT + CALL.replace("3}", '"x"}'),
        early.replace("1}", "[]}"),
        THOUGHT + CALL.replace("weather", "x"),
    ):
        assert not takes(vocabulary.of_harmony(TOOLS, None), tokenizer, wrong), wrong
    loose = THOUGHT + CALL.replace("weather", "now")
    assert takes(vocabulary.of_harmony(TOOLS, None), tokenizer, loose)


def test_beside_a_format_there_is_a_call_or_a_final_message(marked: tuple[Vocabulary, Tokenizer]) -> None:
    vocabulary, tokenizer = marked
    wanted = Format("json_schema", {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    final = "<|start|>assistant<|channel|>final<|message|>"

    def whole(text: str, budget: int = 100) -> bool:
        grammar = vocabulary.of_harmony_or_format(TOOLS, wanted, budget)
        return takes(grammar, tokenizer, text) and grammar.is_complete

    assert whole(THOUGHT + CALL)
    assert whole(THOUGHT + final + '{"a":1}')
    for text in (THOUGHT + final + '{"a":"1"}', THOUGHT + final + "Sunny", THOUGHT + CALL.replace("3", "x"), THOUGHT):
        assert not whole(text), text
    for begins in (CALL, final + '{"a":1}'):
        assert whole(begins.removeprefix("<|start|>assistant"), 0)
        assert whole(begins.removeprefix("<|start|>assistant"))
    assert not whole(THOUGHT + CALL, 0)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_marks_in_a_final_message_of_a_format_are_its_text(size: int) -> None:
    answer = json.dumps({"text": "<|end|><|start|>assistant<|channel|>analysis<|message|>x"})
    text = f"{THOUGHT}<|start|>assistant<|channel|>final<|message|>{answer}"
    assert split(text, size, text_is_last=True) == ("The user asks: 3 < 4?", answer, [])
    assert split(THOUGHT + CALL, size, text_is_last=True)[2][0]["name"] == "weather"
