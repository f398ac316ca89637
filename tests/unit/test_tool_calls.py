"""Tool calls as models write them, in both formats."""

from __future__ import annotations

import json

import pytest

from edge_runtime.service.openai.call_formats.function_xml import xml_call
from edge_runtime.service.openai.call_formats.hermes import json_call
from edge_runtime.service.openai.output_splitter import OutputSplitter

SCHEMAS = {"get": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}
CALL = (
    "\n<function=get>\n<parameter=city>\n12 Elm\nStreet\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n"
)


def arguments(text: str) -> object:
    found = xml_call(text, SCHEMAS)
    assert found is not None
    assert found.name == "get"
    return json.loads(found.arguments)


def test_values_are_what_the_schema_says():
    assert arguments(CALL) == {"city": "12 Elm\nStreet", "days": 3}
    assert arguments("<function=get><parameter=city>12</parameter></function>") == {"city": "12"}
    assert arguments('<function=get><parameter=more>{"a": [1]}</parameter></function>') == {"more": {"a": [1]}}
    assert arguments("<function=get><parameter=more>plain</parameter></function>") == {"more": "plain"}
    assert arguments("<function=get></function>") == {}


@pytest.mark.parametrize(
    "text", ["", "text", "<function=get>", "<function=get>x</function>", "<function=></function>", "[" * 5000]
)
def test_what_is_no_call_is_none(text):
    assert xml_call(text, SCHEMAS) is None
    assert json_call(text) is None


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_streamed_call_comes_out_once_whole(size):
    text = f"Let me see.\n<tool_call>{CALL}</tool_call>"
    splitter = OutputSplitter(with_calls=True, with_thinking=False, thinking=False, schemas=SCHEMAS)
    deltas = [d for at in range(0, len(text), size) for d in splitter.push(text[at : at + size])] + splitter.flush()
    assert "".join(d.content for d in deltas).strip() == "Let me see."
    (call,) = [d.call for d in deltas if d.call]
    assert call["function"] == {"name": "get", "arguments": json.dumps({"city": "12 Elm\nStreet", "days": 3})}
