"""`reasoning_effort` reaches templates that have it, switches thinking off in those that can, and is refused elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import MODEL

from edge_runtime.engine.tokenizer import Tokenizer
from edge_runtime.service.openai.api_errors import ApiError
from edge_runtime.service.openai.chat import ChatFormat
from edge_runtime.service.openai.parser import parse_request
from edge_runtime.service.openai.requests import ChatRequest

DEGREES = "{{ reasoning_effort | default('medium') }}|{{ messages[0].content }}"
SWITCH = (
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{{ messages[0].content }}"
)
PLAIN = "{{ messages[0].content }}"


def prompt(folder: Path, template: str, **more: object) -> str:
    shutil.copyfile(MODEL / "tokenizer.json", folder / "tokenizer.json")
    (folder / "chat_template.jinja").write_text(template)
    body = {"messages": [{"role": "user", "content": "Hi"}], **more}
    tokenizer = Tokenizer.from_folder(folder)
    try:
        return ChatFormat(tokenizer).prompt(parse_request(json.dumps(body).encode(), ChatRequest))
    finally:
        tokenizer.templates.close()


@pytest.mark.parametrize(
    ("template", "more", "expected"),
    [
        (DEGREES, {}, "medium|Hi"),
        (DEGREES, {"reasoning_effort": "high"}, "high|Hi"),
        (DEGREES, {"reasoning_effort": "none"}, "none|Hi"),
        (DEGREES, {"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}}, "high|Hi"),
        (SWITCH, {}, "Hi"),
        (SWITCH, {"reasoning_effort": "none"}, "<think></think>Hi"),
        (SWITCH, {"reasoning_effort": None}, "Hi"),
        (PLAIN, {"reasoning_effort": None}, "Hi"),
    ],
)
def test_a_template_gets_what_it_can_use(tmp_path: Path, template: str, more: dict[str, object], expected: str) -> None:
    assert prompt(tmp_path, template, **more) == expected


@pytest.mark.parametrize(
    ("template", "effort", "hint"),
    [(SWITCH, "high", "only 'none' is accepted"), (PLAIN, "none", "leave it out"), (PLAIN, "low", "leave it out")],
)
def test_what_would_have_no_effect_is_refused_by_name(tmp_path: Path, template: str, effort: str, hint: str) -> None:
    with pytest.raises(ApiError, match=hint) as caught:
        prompt(tmp_path, template, reasoning_effort=effort)
    assert (caught.value.param, caught.value.code) == ("reasoning_effort", "unsupported_parameter")


def test_a_word_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="reasoning_effort: expected one of"):
        prompt(tmp_path, DEGREES, reasoning_effort="very")
