"""One request cannot take the machine: grammars and prompts that explode are refused, and others are served meanwhile."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import Any

import httpx
import psutil
import pytest
from patience import PATIENCE_S
from service_process import ServiceProcess

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23)


def schema(value: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": value}}


BOMBS: dict[str, dict[str, Any]] = {
    "multiple-of-primes": schema({"allOf": [{"type": "integer", "multipleOf": p} for p in PRIMES]}),
    "multiple-of-large": schema({"type": "integer", "multipleOf": 223092870}),
    "multiple-of-decimals": schema({"allOf": [{"type": "number", "multipleOf": 1 / p} for p in PRIMES]}),
    "optional-letters": {"type": "regex", "pattern": "a?" * 5000 + "a" * 5000},
    "nested-repetitions": {"type": "regex", "pattern": "(((a{1000}){1000}){1000})b"},
    "long-alternatives": {"type": "regex", "pattern": "((a|b)*a(a|b){500}){500}"},
    "intersections": schema({"allOf": [{"type": "string", "pattern": f"(.*{c}){{20}}"} for c in "abcdefgh"]}),
}


@pytest.fixture(scope="module")
def service(model_bundle, tmp_path_factory):
    flags = ("--memory", "1GiB", "--context", "512", "--model-name", "m")
    with ServiceProcess(model_bundle, tmp_path_factory.mktemp("bombs") / "log", *flags) as found:
        yield found


def complete(service: ServiceProcess, **more: Any) -> Any:
    with service.client() as client:
        return client.post(
            "/v1/completions", json={"model": "m", "prompt": "x", "max_tokens": 2, "temperature": 0} | more
        )


@pytest.mark.parametrize("name", BOMBS)
def test_a_grammar_that_explodes_is_refused_and_the_service_goes_on(service, name):
    answer = complete(service, response_format=BOMBS[name], max_tokens=1)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        error = answer.json()["error"]
        assert error["param"] == "response_format"
        assert error["message"]
    assert complete(service).status_code == 200
    assert service.process.poll() is None


def test_a_template_bomb_is_refused_with_a_message(service):
    answer = complete(service, response_format=BOMBS["multiple-of-primes"])
    assert answer.status_code == 400
    assert "grammar: it takes more than 2 s or 48.0 MiB to prepare" in answer.json()["error"]["message"]


def test_others_do_not_wait_behind_bombs(service):
    """However slow the machine: a plain request is not queued behind grammars that others want compiled."""
    stop, refused = threading.Event(), []

    def attack() -> None:
        while not stop.is_set():
            refused.append(complete(service, response_format=BOMBS["multiple-of-primes"]).status_code)

    attackers = [threading.Thread(target=attack) for _ in range(8)]
    for thread in attackers:
        thread.start()
    most = 0
    for _ in range(3):
        before = len(refused)
        assert complete(service).status_code == 200
        most = max(most, len(refused) - before)
    stop.set()
    for thread in attackers:
        thread.join()
    assert set(refused) == {400}
    assert most < len(attackers) / 2


LONG = "word " * 200_000
USER = {"role": "user", "content": "x"}
LONG_PROMPTS: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("completions", {"prompt": LONG}),
    "one word": ("completions", {"prompt": "a" * 1_000_000}),
    "characters of four bytes": ("completions", {"prompt": "\U0001f999" * 250_000}),
    "text to be echoed": ("completions", {"prompt": LONG, "max_tokens": 1, "echo": True, "logprobs": 1}),
    "last of several": ("completions", {"prompt": ["x", "y", LONG]}),
    "many tokens": ("completions", {"prompt": [7] * 5000}),
    "message": ("chat/completions", {"messages": [{"role": "user", "content": LONG}]}),
    "parts of a message": (
        "chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": "word " * 999}] * 99}]},
    ),
    "system message": ("chat/completions", {"messages": [{"role": "system", "content": LONG}, USER]}),
    "earlier turns": ("chat/completions", {"messages": [USER, {"role": "assistant", "content": "word"}] * 700 + [USER]}),
}  # fmt: skip


@pytest.mark.parametrize("name", LONG_PROMPTS)
def test_a_prompt_far_beyond_the_context_is_refused_by_its_beginning(service, name):
    path, asked = LONG_PROMPTS[name]
    with service.client() as client:
        answer = client.post(f"/v1/{path}", json={"model": "m", "max_tokens": 2} | asked)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "context of 512" in error["message"] or "context is 512" in error["message"]
    assert error["param"] == {"last of several": "prompt.2"}.get(
        name, "prompt" if path == "completions" else "messages"
    )


def test_sigterm_ends_it_while_bombs_are_prepared(service):
    """The last one here: it ends the service. What prepares a grammar is a process of its own, and goes too."""
    begun = threading.Event()

    def attack() -> None:
        begun.set()
        with contextlib.suppress(httpx.HTTPError):
            complete(service, response_format=BOMBS["multiple-of-primes"])

    attackers = [threading.Thread(target=attack) for _ in range(4)]
    for thread in attackers:
        thread.start()
    begun.wait()
    assert complete(service).status_code == 200
    helpers = psutil.Process(service.process.pid).children(recursive=True)
    assert service.stop(signal.SIGTERM) == 0
    for thread in attackers:
        thread.join()
    assert psutil.wait_procs(helpers, timeout=PATIENCE_S)[1] == []
