"""Tool calls and thinking in the model's own format, a unix socket, and a key: a bundle whose template has tools."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from conftest import MODEL
from service_process import ServiceProcess

from edge_runtime.engine.tokenizer import Tokenizer

# Qwen's format, shortened
TEMPLATE = """{%- if tools %}<|im_start|>system
You may call functions: <tools>{% for tool in tools %}{{ tool | tojson }}
{% endfor %}</tools> Answer with <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>
{{ {"name": c.function.name, "arguments": c.function.arguments} | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking %}<think>
{% else %}<think></think>
{% endif %}{% endif %}"""
KEY = "k" * 32
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a town.",
        "parameters": {
            "type": "object",
            "properties": {
                "town": {"enum": ["Bree", "Hobbiton"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["town", "days"],
            "additionalProperties": False,
        },
    },
}
PLAIN = {
    "type": "function",
    "function": {"name": "now", "parameters": {"type": "object", "additionalProperties": False}},
}
MESSAGES = [{"role": "user", "content": "How is the weather?"}]


@pytest.fixture(scope="module")
def service(
    exported: Callable[..., Path], shared_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("tools")
    checkpoint = folder / "tiny-with-tools"
    shutil.copytree(MODEL, checkpoint)
    (checkpoint / "chat_template.jinja").write_text(TEMPLATE)
    bundle = exported(checkpoint, "--tiers", "8", "--trunk", "fp32")
    (folder / "key").write_text(KEY)
    flags = (
        "--socket",
        str(folder / "s"),
        "--api-key-file",
        str(folder / "key"),
        "--model-name",
        "tiny",
        "--context",
        "1024",
    )
    with ServiceProcess(bundle, folder / "log", *flags) as started:
        yield started


@pytest.fixture(scope="module")
def client(service: ServiceProcess) -> Iterator[openai.OpenAI]:
    transport = httpx.HTTPTransport(uds=service.socket)
    with openai.OpenAI(
        base_url=service.api, api_key=KEY, max_retries=0, http_client=httpx.Client(transport=transport)
    ) as made:
        yield made


def test_required_tool_call(client: openai.OpenAI) -> None:
    ask = {"model": "tiny", "messages": MESSAGES, "tools": [WEATHER, PLAIN], "max_tokens": 200, "temperature": 0}
    answer = client.chat.completions.create(**ask, tool_choice="required")
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert len(choice.message.tool_calls or []) == 1
    call = (choice.message.tool_calls or [])[0]
    assert call.function.name in ("weather", "now")
    assert isinstance(json.loads(call.function.arguments), dict)


def test_named_tool_call_streamed_counted_and_answered(service: ServiceProcess, client: openai.OpenAI) -> None:
    ask = {"model": "tiny", "tools": [WEATHER, PLAIN], "max_tokens": 200, "temperature": 0}
    named = {"type": "function", "function": {"name": "weather"}}
    updates = list(client.chat.completions.create(**ask, messages=MESSAGES, tool_choice=named, stream=True))
    calls = [call for c in updates for call in (c.choices[0].delta.tool_calls or [])]
    assert len(calls) == 1
    assert calls[0].index == 0
    assert calls[0].function.name == "weather"
    arguments = json.loads(calls[0].function.arguments)
    assert arguments["town"] in ("Bree", "Hobbiton")
    assert 1 <= arguments["days"] <= 9
    assert updates[-1].choices[0].finish_reason == "tool_calls"
    with service.client() as metrics:
        page = metrics.get("/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    counted = re.search(r'request_success_total{finished_reason="tool_calls".*} (\S+)', page)
    assert counted is not None
    assert float(counted[1]) >= 1
    history = [
        *MESSAGES,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": calls[0].id,
                    "type": "function",
                    "function": {"name": "weather", "arguments": calls[0].function.arguments},
                }
            ],
        },
        {"role": "tool", "tool_call_id": calls[0].id, "content": "Rain."},
    ]
    answer = client.chat.completions.create(**ask | {"max_tokens": 5}, messages=history)
    assert answer.choices[0].finish_reason in ("length", "stop")
    none = client.chat.completions.create(**ask | {"max_tokens": 5}, messages=MESSAGES, tool_choice="none")
    auto = client.chat.completions.create(**ask | {"max_tokens": 5}, messages=MESSAGES)
    assert none.usage is not None
    assert auto.usage is not None
    assert none.usage.prompt_tokens < auto.usage.prompt_tokens


def test_a_strict_tool_is_served_where_the_model_decides(client: openai.OpenAI) -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, tools=[strict], max_tokens=8, temperature=0, parallel_tool_calls=False
    )
    assert answer.choices[0].finish_reason in ("length", "stop")
    broken = {"type": "function", "function": {"name": "f", "parameters": {"type": "nonsense"}, "strict": True}}
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.chat.completions.create(model="tiny", messages=MESSAGES, tools=[broken], max_tokens=8)


STRICT = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
CHOICE = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "choice", "schema": CHOICE, "strict": True}}


@pytest.mark.parametrize("thinks", [False, True])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("first", ["{", "<tool_call>"])
def test_beside_a_format_an_answer_or_a_call(client: openai.OpenAI, first: str, stream: bool, thinks: bool) -> None:
    """The model is made to like either beginning; what follows is the grammar's doing."""
    bias = {Tokenizer.from_folder(MODEL).encode(first, add_special_tokens=False)[0]: 100}
    ask = {
        "model": "tiny", "messages": MESSAGES, "tools": [STRICT], "response_format": FORMAT, "logit_bias": bias,
        "max_tokens": 200, "temperature": 0, "parallel_tool_calls": False,
        "extra_body": {"chat_template_kwargs": {"enable_thinking": thinks}},
    }  # fmt: skip
    if stream:
        with client.chat.completions.stream(**ask) as events:
            answer = events.get_final_completion()
    else:
        answer = client.chat.completions.create(**ask)
    (choice,) = answer.choices
    if first == "{":
        assert (choice.finish_reason, choice.message.tool_calls or None) == ("stop", None)
        assert json.loads(choice.message.content)["a"] in (1, 2)
        return
    assert (choice.finish_reason, choice.message.content or None) == ("tool_calls", None)
    (call,) = choice.message.tool_calls
    assert 1 <= json.loads(call.function.arguments)["days"] <= 9


NAMED = {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "asked",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": FORMAT},
        {"extra_body": {"response_format": {"type": "regex", "pattern": "yes|no"}}},
        {"tools": [WEATHER], "tool_choice": "required"},
        {"tools": [WEATHER, PLAIN], "tool_choice": NAMED},
    ],
    ids=["object", "schema", "regex", "required", "named"],
)
def test_what_is_asked_for_follows_the_thinking(client: openai.OpenAI, asked: dict[str, Any], stream: bool) -> None:
    extra = {**asked.get("extra_body", {}), "chat_template_kwargs": {"enable_thinking": True}}
    ask = {"model": "tiny", "messages": MESSAGES, "max_tokens": 260, "temperature": 0, **asked, "extra_body": extra}
    content, reasoning, names = "", "", []
    if stream:
        for update in client.chat.completions.create(**ask, stream=True):
            delta = update.choices[0].delta
            content += delta.content or ""
            reasoning += (delta.model_extra or {}).get("reasoning_content", "")
            names += [call.function.name for call in delta.tool_calls or []]
    else:
        message = client.chat.completions.create(**ask).choices[0].message
        content, reasoning = message.content or "", (message.model_extra or {}).get("reasoning_content", "")
        names = [call.function.name for call in message.tool_calls or []]
    assert reasoning
    if "tools" in asked:
        assert (content, len(names)) == ("", 1)
        assert names[0] == "weather"
    else:
        assert not names
        assert content in ("yes", "no") if "extra_body" in asked else content.startswith("{"), (content, reasoning)


def test_a_forced_call_leaves_no_room_for_a_format(client: openai.OpenAI) -> None:
    ask = {"model": "tiny", "messages": MESSAGES, "tools": [STRICT], "max_tokens": 200, "temperature": 0}
    (choice,) = client.chat.completions.create(**ask, response_format=FORMAT, tool_choice="required").choices
    assert (choice.finish_reason, len(choice.message.tool_calls)) == ("tool_calls", 1)
    (choice,) = client.chat.completions.create(**ask, response_format=FORMAT, tool_choice="none").choices
    assert json.loads(choice.message.content)["a"] in (1, 2)
    broken = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    for tool_choice in ("auto", "required", "none"):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**ask, response_format=broken, tool_choice=tool_choice)
        assert caught.value.param == "response_format"


def test_thinking_comes_apart(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        max_tokens=6,
        temperature=0,
        extra_body={"chat_template_kwargs": {"enable_thinking": True}},
    )
    assert answer.choices[0].message.content == ""
    assert (answer.choices[0].message.model_extra or {})["reasoning_content"]


def test_the_key_is_asked_for(service: ServiceProcess, client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError, match="API key"):
        client.with_options(api_key="wrong").models.list()
    assert [m.id for m in client.models.list()] == ["tiny"]
    with service.client() as stranger:
        assert stranger.get("/health").json() == {"status": "ok"}
        assert stranger.get("/").status_code == 200
        assert stranger.get("/v1/stats").status_code == 401
