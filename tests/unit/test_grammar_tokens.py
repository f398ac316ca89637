"""Grammars and added tokens: what is plain text is matched as text, however many tokens spell it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llguidance import LLMatcher

from edge_runtime.base.errors import BundleError
from edge_runtime.engine.tokenizer import Tokenizer
from edge_runtime.service.openai.call_formats import format_of
from edge_runtime.service.openai.grammar import Vocabulary
from edge_runtime.service.openai.messages import Tool
from edge_runtime.service.openai.reasoning import AfterReasoning

MODEL = Path(__file__).parents[2] / "examples" / "tiny-moe"
ADDED = {
    4096: ("<tool_call>", False),
    4097: ("</tool_call>", False),
    4098: ("<|stop|>", True),
    4099: (": true}", False),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The example's tokenizer with added tokens, as Qwen's has them."""
    path = tmp_path_factory.mktemp("added")
    data = json.loads((MODEL / "tokenizer.json").read_text())
    data["added_tokens"] += [
        {"id": number, "content": text, "special": special, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for number, (text, special) in ADDED.items()
    ]  # fmt: skip
    (path / "tokenizer.json").write_text(json.dumps(data))
    return path


@pytest.fixture(scope="module")
def vocabulary(folder) -> Vocabulary:
    return Vocabulary((folder / "tokenizer.json").read_bytes(), 4160, (0, 2))


@pytest.fixture(scope="module")
def tokenizer(folder) -> Tokenizer:
    return Tokenizer.from_folder(folder)


def write(grammar: Any, vocabulary: Vocabulary, left: bytes) -> list[int]:
    """Let a grammar take a text in the longest tokens it allows; return them."""
    used = []
    while left:
        allowed = np.flatnonzero(grammar.allowed()).tolist()
        fitting = [token for token in allowed if left.startswith(vocabulary.bytes_of(token))]
        assert fitting, left
        token = max(fitting, key=lambda token: len(vocabulary.bytes_of(token)))
        grammar.accept(token)
        used.append(token)
        left = left[len(vocabulary.bytes_of(token)) :]
    return used


def regex(vocabulary: Vocabulary, pattern: str):
    return vocabulary.constraint(LLMatcher.grammar_from_regex(pattern))


@pytest.mark.parametrize(
    "text", ["<tool_call>", "<tool_call>x</tool_call>", "a: true}<tool_call>", "<|stop|>", "a<|stop|>b"]
)
def test_a_literal_may_be_the_text_of_an_added_token(vocabulary, text):
    """It is written in added tokens where they are plain text, and else in ordinary ones."""
    grammar = regex(vocabulary, text.replace("|", "[|]"))
    used = write(grammar, vocabulary, text.encode())
    assert grammar.is_complete or grammar.allowed()[[0, 2]].any()
    assert 4098 not in used  # special: never text
    assert (4096 in used) == ("<tool_call>" in text)


SCHEMAS: dict[str, tuple[dict[str, Any], str]] = {
    "one value": ({"const": "<tool_call>"}, '"<tool_call>"'),
    "one of several": ({"enum": ["a", "</tool_call>"]}, '"</tool_call>"'),
    "a pattern": ({"type": "string", "pattern": "^<tool_call>[0-9]$"}, '"<tool_call>7"'),
    "a key": ({"type": "object", "properties": {"<tool_call>": {"type": "boolean"}}, "required": ["<tool_call>"]},
              '{"<tool_call>": true}'),
    "punctuation and a value": ({"type": "object", "properties": {"x": {"const": True}}, "required": ["x"],
                                 "additionalProperties": False}, '{"x": true}'),
    "any text": ({"type": "string"}, '"a<tool_call><|stop|>b"'),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_json_of_a_schema_may_hold_the_text_of_an_added_token(vocabulary, name):
    wanted, text = SCHEMAS[name]
    grammar = vocabulary.constraint(LLMatcher.grammar_from_json_schema(json.dumps(wanted)))
    used = write(grammar, vocabulary, text.encode())
    assert grammar.is_complete or grammar.allowed()[[0, 2]].any()
    assert 4098 not in used  # special: never text
    spelt = {4096: "<tool_call>", 4097: "</tool_call>"}
    assert [token for token in spelt if token in used] == [token for token in spelt if spelt[token] in text]


HERMES = "{% if tools %}{{ tools }}<tool_call>{% endif %}"
PARAMETERS = {"type": "object", "properties": {"x": {"const": True}}, "required": ["x"], "additionalProperties": False}
CALL = '<tool_call>\n{"name": "get", "arguments": {"x": true}}\n</tool_call>'


@pytest.mark.parametrize("text", [CALL, f"Let me see. {CALL}", f"{CALL}\n{CALL}"], ids=["forced", "free", "several"])
def test_calls_may_be_written_in_added_tokens(vocabulary, tokenizer, text):
    """As Qwen's tokenizers have the marks of calls: the grammar must go on behind each of them."""
    calls, tools = format_of(HERMES), [Tool("get", "", PARAMETERS, strict=True)]
    is_forced = text == CALL
    grammar = vocabulary.of_tool_call(tools, calls) if is_forced else vocabulary.of_strict_tools(tools, calls)
    used = tokenizer.encode(text, add_special_tokens=False)
    for token in used:
        assert grammar.allowed()[token], token
        grammar.accept(token)
    assert (used.count(4096), used.count(4097)) == (text.count("<tool_call>"), text.count("</tool_call>"))
    assert grammar.is_complete or grammar.allowed()[[0, 2]].any()


def test_special_tokens_are_never_text(vocabulary):
    assert not regex(vocabulary, "(.|\n)*").allowed()[4098]


def test_bytes_of_every_token_are_known(vocabulary):
    assert vocabulary.bytes_of(4096) == b"<tool_call>"
    assert vocabulary.bytes_of(4098) == b"<|stop|>"


@pytest.mark.parametrize("size", [4096, 4098])
def test_a_tokenizer_larger_than_the_model_is_cut_to_it(folder, size):
    vocabulary = Vocabulary((folder / "tokenizer.json").read_bytes(), size, (0,))
    grammar = regex(vocabulary, "<tool_call>")
    mask = grammar.allowed()
    assert mask.shape == (size,)
    assert mask.any()


def test_a_tokenizer_smaller_than_the_model_leaves_rows_unused(folder):
    mask = regex(Vocabulary((folder / "tokenizer.json").read_bytes(), 5000, (0,)), "(.|\n)*").allowed()
    assert mask.shape == (5000,)
    assert not mask[4100:].any()


def test_a_damaged_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json: the grammar library refuses it"):
        Vocabulary((tmp_path / "tokenizer.json").read_bytes(), 10, (0,))


def thinking(vocabulary: Vocabulary, tokenizer: Tokenizer, budget: int) -> AfterReasoning:
    closing = tokenizer.encode("</think>\n\n", add_special_tokens=False)
    return AfterReasoning(regex(vocabulary, "yes|no"), vocabulary, mark="</think>", closing=closing, budget=budget)


def test_the_grammar_begins_when_the_model_stops_thinking(vocabulary, tokenizer):
    constraint = thinking(vocabulary, tokenizer, 100)
    for token in tokenizer.encode("I wonder...</think>", add_special_tokens=False):
        mask = constraint.allowed()
        assert mask[token]
        assert not mask[[0, 2]].any()  # an end of the text here would leave no answer
        assert not constraint.is_complete
        constraint.accept(token)
    allowed = {vocabulary.bytes_of(int(token)) for token in np.flatnonzero(constraint.allowed())}
    assert allowed <= {b"y", b"ye", b"yes", b"n", b"no"}


def test_thinking_that_takes_too_long_is_closed(vocabulary, tokenizer):
    constraint, budget, written = thinking(vocabulary, tokenizer, 5), 5, []
    while len(written) < 40 and not constraint.is_complete:
        token = int(np.flatnonzero(constraint.allowed())[-1])
        constraint.accept(token)
        written.append(token)
    text = tokenizer.decode(written[budget:])
    assert text.startswith("</think>\n\n")
    assert text.removeprefix("</think>\n\n") in {"yes", "no"}
