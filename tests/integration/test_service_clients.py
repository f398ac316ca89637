"""Real clients, unchanged, against the started service: openai, LangChain, curl."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from patience import PATIENCE_S
from service_process import ServiceProcess

SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Frodo", "Sam"]}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
MESSAGES = [{"role": "user", "content": "Once upon a time"}]


@pytest.fixture(scope="module")
def service(model_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    log = tmp_path_factory.mktemp("service") / "log"
    with ServiceProcess(model_bundle, log, "--parallel", "4", "--context", "256") as started:
        yield started


@pytest.fixture(scope="module")
def client(service: ServiceProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=service.api, api_key="unused", max_retries=0) as made:
        yield made


def test_openai_lists_the_model(service: ServiceProcess, client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == [service.model]
    assert client.models.retrieve(service.model).owned_by == "hobbit-edge"
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.models.retrieve("gpt-5")


def test_openai_chat(service: ServiceProcess, client: openai.OpenAI) -> None:
    ask = {"model": service.model, "messages": MESSAGES, "max_completion_tokens": 12, "temperature": 0}
    first, again = (client.chat.completions.create(**ask) for _ in range(2))
    assert first.object == "chat.completion"
    assert first.choices[0].finish_reason == "length"
    assert first.choices[0].message.role == "assistant"
    assert first.usage is not None
    assert first.usage.completion_tokens == 12
    assert first.usage.total_tokens == first.usage.prompt_tokens + 12
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens == first.usage.prompt_tokens - 1
    extra = again.model_extra or {}
    assert extra["timings"]["cache_n"] == first.usage.prompt_tokens - 1
    assert extra["timings"]["prompt_n"] == 1
    assert extra["hobbit"]["policy"] == {"name": "lossless", "params": {}}
    experts = extra["hobbit"]["experts"]
    assert experts["lookups"] == experts["hits"] + experts["late"] + experts["misses"] > 0
    assert extra["hobbit"]["energy"] is None


def test_openai_streaming_says_the_same(service: ServiceProcess, client: openai.OpenAI) -> None:
    ask = {"model": service.model, "messages": MESSAGES, "max_tokens": 12, "temperature": 0, "seed": 1}
    whole = client.chat.completions.create(**ask)
    updates = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert updates[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in updates if c.choices)
    assert text == whole.choices[0].message.content
    reasons = [c.choices[0].finish_reason for c in updates if c.choices]
    assert reasons == [None] * (len(reasons) - 1) + ["length"]
    assert updates[-1].choices == []
    assert updates[-1].usage is not None
    assert updates[-1].usage.completion_tokens == 12
    assert all(c.usage is None for c in updates[:-1])
    assert {c.object for c in updates} == {"chat.completion.chunk"}


def test_openai_async_requests_run_together(service: ServiceProcess) -> None:
    async def ask(client: openai.AsyncOpenAI, name: str) -> str:
        messages = [{"role": "user", "content": f"My name is {name}."}]
        stream = await client.chat.completions.create(
            model=service.model, messages=messages, max_tokens=24, temperature=0, stream=True
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream])

    async def ask_all(*names: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=service.api, api_key="unused", max_retries=0) as client:
            return list(await asyncio.gather(*(ask(client, name) for name in names)))

    names = ["Frodo", "Sam", "Merry", "Pippin"]
    together = asyncio.run(ask_all(*names))
    assert together == [asyncio.run(ask_all(name))[0] for name in names]


def test_openai_json_schema(service: ServiceProcess, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=service.model, messages=MESSAGES, max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "hobbit", "schema": SCHEMA, "strict": True}},
    )  # fmt: skip
    found = json.loads(answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert found["name"] in ("Frodo", "Sam")
    assert 0 <= found["age"] <= 99


def test_openai_parses_into_pydantic(service: ServiceProcess, client: openai.OpenAI) -> None:
    from pydantic import BaseModel

    class Hobbit(BaseModel):
        brave: bool
        second_breakfast: bool

    answer = client.chat.completions.parse(
        model=service.model, messages=MESSAGES, response_format=Hobbit, max_tokens=60
    )
    assert isinstance(answer.choices[0].message.parsed, Hobbit)


def test_json_object_and_regex(service: ServiceProcess) -> None:
    answer = service.chat(response_format={"type": "json_object"}, max_tokens=150, temperature=1, seed=5)
    text = answer["choices"][0]["message"]["content"]
    if answer["choices"][0]["finish_reason"] == "stop":
        assert isinstance(json.loads(text), dict)
    assert text.startswith("{")
    answer = service.chat(response_format={"type": "regex", "pattern": "[a-c]{3}-[0-9]{2}"}, max_tokens=30)
    text = answer["choices"][0]["message"]["content"]
    assert len(text) == 6
    assert text[3] == "-"
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_openai_completions_stop_and_logprobs(service: ServiceProcess, client: openai.OpenAI) -> None:
    ask = {"model": service.model, "prompt": "The", "temperature": 0}
    full = client.completions.create(**ask, max_tokens=20, logprobs=3)
    choice = full.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert len(choice.logprobs.tokens) == 20
    assert all(len(top) == 3 for top in choice.logprobs.top_logprobs or [])
    # greedy: the token is the likeliest of its alternatives
    best = [max(top.values()) for top in choice.logprobs.top_logprobs or []]
    assert choice.logprobs.token_logprobs == pytest.approx(best)
    stop = choice.text[4:7]
    cut = client.completions.create(**ask, max_tokens=20, stop=[stop])
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].text == choice.text[: choice.text.find(stop)]
    echoed = client.completions.create(**ask, max_tokens=2, echo=True)
    assert echoed.choices[0].text.startswith("The")
    assert client.completions.create(model=service.model, prompt=[5, 6, 7], max_tokens=1).usage.prompt_tokens == 3


def test_openai_chat_logprobs(service: ServiceProcess, client: openai.OpenAI) -> None:
    ask = {"model": service.model, "messages": MESSAGES, "max_tokens": 6, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**ask, temperature=0)
    assert whole.choices[0].logprobs is not None
    entries = whole.choices[0].logprobs.content or []
    assert len(entries) == 6
    assert all(e.logprob <= 0 and len(e.top_logprobs) == 2 and bytes(e.bytes or []) for e in entries)
    streamed = client.chat.completions.create(**ask, temperature=0, stream=True)
    found = [e for c in streamed for e in ((c.choices[0].logprobs and c.choices[0].logprobs.content) or [])]
    assert [e.token for e in found] == [e.token for e in entries]


def test_the_same_seed_gives_the_same_text(service: ServiceProcess) -> None:
    ask = {"temperature": 1.5, "max_tokens": 16}
    # equal requests give equal bits once they start from the same reused prefix: prompts run in other pieces round otherwise
    service.chat(seed=7, **ask)
    assert service.chat(seed=7, **ask)["choices"] == service.chat(seed=7, **ask)["choices"]
    assert service.chat(seed=-7, **ask)["choices"] != service.chat(seed=7, **ask)["choices"]


def test_openai_errors_have_param_and_code(service: ServiceProcess, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=service.model, prompt="x", n=2, best_of=4)
    assert (caught.value.param, caught.value.code) == ("best_of", "unsupported_parameter")
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=service.model, messages=MESSAGES, extra_body={"tempurature": 1})
    assert caught.value.param == "tempurature"
    assert "Did you mean 'temperature'" in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=service.model, prompt="word " * 300)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt-5", prompt="Hi")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=service.model, messages=MESSAGES, tools=[{"type": "function", "function": {"name": "f"}}]
        )
    assert caught.value.param == "tools"


def test_langchain(service: ServiceProcess) -> None:
    from langchain_core.messages import HumanMessage, SystemMessage
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(base_url=service.api, api_key="unused", model=service.model, temperature=0, max_tokens=12)
    answer = chat.invoke([SystemMessage("You tell stories."), HumanMessage("Tell one.")])
    assert isinstance(answer.content, str)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 12
    streamed = "".join(
        str(c.content) for c in chat.stream([SystemMessage("You tell stories."), HumanMessage("Tell one.")])
    )
    assert streamed == answer.content
    shaped = ChatOpenAI(
        base_url=service.api, api_key="unused", model=service.model, temperature=0, max_tokens=60
    ).with_structured_output({"title": "Hobbit", "description": "A hobbit", **SCHEMA}, method="json_schema")
    assert shaped.invoke("Who is it?")["name"] in ("Frodo", "Sam")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(service: ServiceProcess) -> None:
    body = json.dumps({"model": service.model, "messages": MESSAGES, "max_tokens": 4, "temperature": 0, "stream": True})
    command = [
        "curl",
        "-sN",
        "--noproxy",
        "*",
        f"{service.api}/chat/completions",
        "-H",
        "Content-Type: application/json",
    ]
    done = subprocess.run([*command, "-d", body], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    lines = [line for line in done.stdout.splitlines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[0].removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"
    plain = subprocess.run(
        [*command[:4], command[4], "-d", body], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    assert json.loads(plain.stdout)["error"]["code"] == "unsupported_media_type"
