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
from edge_runtime.service.openai.harmony import FINAL, TO_FINAL, HarmonySplitter, shown_tokens

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
    assert chat.shown == {1, 2}
    assert chat.thinking_end("whatever") == (FINAL, TO_FINAL)
    other = ChatFormat(SimpleNamespace(chat_template="<think></think>", special_texts=special))  # type: ignore[arg-type]
    assert other.shown == frozenset()
    assert other.thinking_end("a <think>\n") == ("</think>", "</think>\n\n")
    assert other.thinking_end("a") is None
