"""`n`, lists of prompts, penalties and biases through the real openai client: several answers of one request."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from conftest import MODEL
from patience import PATIENCE_S, until
from service_process import ServiceProcess

from edge_runtime.engine.tokenizer import Tokenizer

MESSAGES = [{"role": "user", "content": "Once upon a time there was a hobbit"}]
LONG = "The hobbits walked along the river and through the woods until evening came. " * 4


@pytest.fixture(scope="module", params=["1", "3"])
def service(request: Any, model_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """One sequence at a time, and three: answers must not depend on it."""
    log = tmp_path_factory.mktemp("several") / "log"
    flags = ("--parallel", request.param, "--context", "512", "--max-waiting", "2", "--no-self-check")
    with ServiceProcess(model_bundle, log, *flags) as started:
        yield started
        assert "Traceback" not in log.read_text()


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[openai.OpenAI]:
    with service.openai_client() as made:
        yield made


@cache
def vocabulary() -> list[str]:
    """Tokens as log probabilities name them."""
    tokenizer = Tokenizer.from_folder(MODEL)
    return [tokenizer.decode([token], skip_special_tokens=False) for token in range(4096)]


def complete(client: openai.OpenAI, service: ServiceProcess, **more: Any) -> Any:
    return client.completions.create(**{"model": service.model, "max_tokens": 12, "temperature": 0} | more)


def test_a_list_of_prompts_gives_what_each_gives_alone(service: ServiceProcess, client: openai.OpenAI) -> None:
    prompts = ["Once upon a time", "def main():", LONG, "1 2 3"]
    alone = [complete(client, service, prompt=prompt) for prompt in prompts]
    together = complete(client, service, prompt=prompts)
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in together.choices] == [one.choices[0].text for one in alone]
    assert together.usage is not None
    assert together.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone)
    assert together.usage.completion_tokens == sum(one.usage.completion_tokens for one in alone) == 48
    assert together.usage.total_tokens == together.usage.prompt_tokens + 48
    extra = together.model_extra or {}
    assert extra["timings"]["predicted_n"] == 48
    assert extra["hobbit"]["experts"]["lookups"] > 0


def test_token_arrays_and_echo(service: ServiceProcess, client: openai.OpenAI) -> None:
    both = complete(client, service, prompt=[[5, 6, 7], [8, 9]], max_tokens=3)
    one = complete(client, service, prompt=[8, 9], max_tokens=3)
    assert both.usage.prompt_tokens == 5
    assert both.choices[1].text == one.choices[0].text
    echoed = complete(client, service, prompt=["The", "A"], n=2, echo=True, max_tokens=2)
    assert [choice.text[:1] for choice in echoed.choices] == ["T", "T", "A", "A"]


def test_choices_of_one_seed_differ_and_come_again(service: ServiceProcess, client: openai.OpenAI) -> None:
    ask = {"model": service.model, "messages": MESSAGES, "max_tokens": 10, "temperature": 1.2, "seed": 5}
    client.chat.completions.create(**ask, n=4)  # from now on the prompt is in the cache
    first, again = (client.chat.completions.create(**ask, n=4) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]
    assert [choice.message.content for choice in again.choices] == texts
    assert len(set(texts)) > 1
    single = client.chat.completions.create(**ask)
    assert single.choices[0].message.content == texts[0]
    assert first.usage is not None
    assert single.usage is not None
    # a prompt counts once, however many answers it gets
    assert first.usage.prompt_tokens == single.usage.prompt_tokens
    assert first.usage.completion_tokens == 40
    other = client.chat.completions.create(**ask | {"seed": 6}, n=4)
    assert [choice.message.content for choice in other.choices] != texts


def test_each_prompt_has_the_choices_it_has_alone(service: ServiceProcess, client: openai.OpenAI) -> None:
    ask = {"temperature": 1.0, "seed": 9, "n": 2, "max_tokens": 8}
    for prompt in ("One", "Two"):
        complete(client, service, prompt=prompt, **ask)
    alone = [
        choice.text for prompt in ("One", "Two") for choice in complete(client, service, prompt=prompt, **ask).choices
    ]
    assert [choice.text for choice in complete(client, service, prompt=["One", "Two"], **ask).choices] == alone


def test_a_stream_has_every_choice_under_its_index(service: ServiceProcess, client: openai.OpenAI) -> None:
    ask = {"model": service.model, "messages": MESSAGES, "max_tokens": 8, "temperature": 1.0, "seed": 3, "n": 3}
    client.chat.completions.create(**ask)
    whole = client.chat.completions.create(**ask)
    updates = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    texts, reasons = ["", "", ""], [None, None, None]
    for update in updates:
        for choice in update.choices:
            assert reasons[choice.index] is None, "nothing follows the end of a choice"
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert updates[-1].choices == []
    assert updates[-1].usage is not None
    assert updates[-1].usage.completion_tokens == whole.usage.completion_tokens == 24
    assert [update.usage for update in updates[:-1]] == [None] * (len(updates) - 1)
    assert len({update.id for update in updates}) == 1
    raw = complete(client, service, prompt=["One", "Two"], stream=True, max_tokens=4)
    parts = ["", ""]
    for update in raw:
        for choice in update.choices:
            parts[choice.index] += choice.text
    assert parts == [choice.text for choice in complete(client, service, prompt=["One", "Two"], max_tokens=4).choices]


def test_a_prompt_is_run_once_for_all_its_choices(service: ServiceProcess, client: openai.OpenAI) -> None:
    def run() -> int:
        tokens = service.stats()["tokens"]
        return int(tokens["prompt"] - tokens["cached"])

    fresh = f"{time.time_ns()} {LONG}"
    before = run()
    answer = complete(client, service, prompt=fresh, n=4, max_tokens=6)
    assert len({choice.text for choice in answer.choices}) == 1  # greedy: all the same, from a copied state too
    prompt = answer.usage.prompt_tokens
    # all of it for the first, and one token for each of the others
    until(lambda: run() - before >= prompt, "figures are there")
    assert run() - before <= prompt + 3
    assert answer.usage.prompt_tokens_details.cached_tokens < prompt / 2


def test_formats_rule_each_choice(service: ServiceProcess, client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 999}},
              "required": ["age"], "additionalProperties": False}  # fmt: skip
    answer = client.chat.completions.create(
        model=service.model, messages=MESSAGES, n=3, temperature=1.5, seed=1, max_tokens=40,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
        presence_penalty=1.0, frequency_penalty=0.5,
    )  # fmt: skip
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        assert 0 <= json.loads(choice.message.content or "")["age"] <= 999


def test_a_client_that_goes_ends_all_choices(service: ServiceProcess) -> None:
    body = {"prompt": ["Once", "Twice"], "n": 8, "max_tokens": 400, "ignore_eos": True, "stream": True}
    with service.client() as client, client.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        assert service.stats()["requests"]["running"] >= 1
    service.wait_until_idle()
    assert service.stats()["requests"]["finished"]["cancelled"] >= 16


def test_a_request_takes_one_place_in_the_queue_however_many_answers_it_wants(service: ServiceProcess) -> None:
    """Two may wait. A request of 16 answers is let in as a whole, and so are two more; the next is refused."""
    body = {"prompt": "Once", "n": 16, "max_tokens": 60, "ignore_eos": True, "temperature": 1}
    statuses: list[int] = []

    def ask() -> None:
        with service.client() as client:
            # nearly 3,000 tokens are computed before the last of them is answered
            statuses.append(client.post("/v1/completions", json=body, timeout=10 * PATIENCE_S).status_code)

    with service.client() as client:
        started = [threading.Thread(target=ask) for _ in range(3)]
        for number, thread in enumerate(started):
            thread.start()
            most = 16 * number + 1
            until(
                lambda most=most: sum(service.stats()["requests"][k] for k in ("running", "waiting")) >= most,
                "it is in",
            )  # type: ignore[misc]
        refused = client.post("/v1/completions", json=body)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "queue_full"
        assert "2 requests are waiting" in refused.json()["error"]["message"]
    for thread in started:
        thread.join()
    assert statuses == [200] * 3


def test_too_many_answers_are_refused_by_name(service: ServiceProcess, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="at most 64 for one request") as caught:
        complete(client, service, prompt=["x"] * 40, n=2)
    assert caught.value.param == "n"
    with pytest.raises(openai.BadRequestError, match="at least one token") as caught:
        complete(client, service, prompt=["x", ""])
    assert caught.value.param == "prompt.1"
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, service, prompt=["x", "word " * 600])
    assert (caught.value.param, caught.value.code) == ("prompt.1", "context_length_exceeded")


def test_penalties_and_biases_do_what_openai_says(service: ServiceProcess, client: openai.OpenAI) -> None:
    def tokens(**more: Any) -> list[str]:
        choice = complete(
            client, service, prompt=LONG, max_tokens=40, logprobs=0, extra_body={"ignore_eos": True}, **more
        ).choices[0]
        return list(choice.logprobs.tokens)

    plain = tokens()
    # the first token of the answer can be banned, and any token forced
    with_ids = {token: number for number, token in enumerate(vocabulary())}
    banned = tokens(logit_bias={str(with_ids[plain[0]]): -100})
    assert plain[0] not in banned
    assert tokens(logit_bias={"300": 100}) == [vocabulary()[300]] * 40
    # no token comes twice when each time costs more than all logits differ by
    spread = tokens(frequency_penalty=2, presence_penalty=2, logit_bias={})
    assert len(set(spread)) > len(set(plain))
    most = max(plain.count(token) for token in plain)
    assert max(spread.count(token) for token in spread) < most
    drawn = tokens(temperature=1, seed=4, presence_penalty=2)
    assert drawn == tokens(temperature=1, seed=4, presence_penalty=2) != tokens(temperature=1, seed=4)
    with pytest.raises(openai.BadRequestError, match="token id 4096 is outside the vocabulary of 4096") as caught:
        complete(client, service, prompt="x", logit_bias={"4096": 1})
    assert caught.value.param == "logit_bias"


def test_the_model_may_be_left_out(service: ServiceProcess) -> None:
    with service.client() as client:
        for path, body in (("completions", {"prompt": "x"}), ("chat/completions", {"messages": MESSAGES})):
            for model in ({}, {"model": None}, {"model": service.model}):
                answer: httpx.Response = client.post(f"/v1/{path}", json={**body, **model, "max_tokens": 1})
                assert answer.status_code == 200
                assert answer.json()["model"] == service.model
            assert client.post(f"/v1/{path}", json={**body, "model": "gpt-5"}).status_code == 404
