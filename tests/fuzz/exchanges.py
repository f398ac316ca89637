"""Hostile HTTP requests: bodies changed where their structure is, bombs of every kind that was seen, and raw bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from fuzz.mutations import TEXTS, changed, damaged

Exchange = tuple[str, bytes]
"""Path, and the body or, for the path "raw", all bytes of the connection."""

_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23)
_CHAT, _COMPLETION = "/v1/chat/completions", "/v1/completions"


def completion(**more: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": "import os", "max_tokens": 2, "temperature": 0, **more}


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "temperature": 0, **more}


_TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}
_SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "pattern": "[a-z]{1,8}"}, "b": {"enum": [1, 2]}}}
SEEDS: list[tuple[str, dict[str, Any]]] = [
    (_COMPLETION, completion(stop=["\n", "end"], seed=5, logprobs=2, top_p=0.9, top_k=40, min_p=0.1)),
    (_COMPLETION, completion(prompt=[1, 2, 3, 4], echo=True, stream=True, stream_options={"include_usage": True})),
    (_COMPLETION, completion(prompt=["Once upon a time", "\U0001f600"], echo=True, logprobs=3)),
    (_COMPLETION, completion(prompt=["a", "b"], n=2, temperature=1, logit_bias={"5": 3}, presence_penalty=0.5)),
    (_CHAT, chat(tools=[_TOOL], tool_choice="auto", parallel_tool_calls=False)),
    (_CHAT, chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": _SCHEMA, "strict": True}})),
    (_CHAT, chat(tools=[_TOOL], response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": _SCHEMA}})),
    (_CHAT, chat(stream=True, chat_template_kwargs={"a": 1}, metadata={"k": "v"}, max_completion_tokens=2)),
    (_CHAT, chat(messages=[{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "x"}]}])),
    (_COMPLETION, completion(response_format={"type": "regex", "pattern": "[a-z]+"}, hobbit={"policy": "lossless"})),
]  # fmt: skip


def _schema(value: Any) -> bytes:
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": value}}
    return json.dumps(completion(response_format=wanted)).encode()


def _regex(pattern: str) -> bytes:
    return json.dumps(completion(response_format={"type": "regex", "pattern": pattern})).encode()


def _nested(levels: int) -> Any:
    value: Any = {"type": "string"}
    for _ in range(levels):
        value = {"type": "array", "items": value, "minItems": 3}
    return value


BOMBS: dict[str, Callable[[random.Random], Exchange]] = {
    "primes": lambda r: (_COMPLETION, _schema({"allOf": [{"type": "integer", "multipleOf": p} for p in _PRIMES]})),
    "optional letters": lambda r: (_COMPLETION, _regex("a?" * 5000 + "a" * 5000)),
    "nested counts": lambda r: (_COMPLETION, _regex("(((a{1000}){1000}){1000})b")),
    "deep schema": lambda r: (_COMPLETION, _schema(_nested(40))),
    "many properties": lambda r: (_COMPLETION, _schema({"type": "object", "properties": {f"p{i}": {} for i in range(3000)}})),
    "two megabytes of words": lambda r: (_COMPLETION, json.dumps(completion(prompt="word " * 400_000)).encode()),
    "two megabytes of emoji": lambda r: (_CHAT, json.dumps(chat(messages=[{"role": "user", "content": "\U0001f600" * 480_000}]), ensure_ascii=False).encode()),
    "a million tokens": lambda r: (_COMPLETION, json.dumps(completion(prompt=[1] * 250_000)).encode()),
    "lists": lambda r: (_COMPLETION, b'{"model":"m","prompt":"x","user":[' + b"[]," * 600_000 + b"[]]}"),
    "deep lists": lambda r: (_COMPLETION, b"[" * 100_000 + b"]" * 100_000),
    "deep objects": lambda r: (_COMPLETION, b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "huge number": lambda r: (_COMPLETION, b'{"model":"m","prompt":"x","max_tokens":1' + b"0" * 5000 + b"}"),
    "many messages": lambda r: (_CHAT, json.dumps(chat(messages=[{"role": "user", "content": "x"}] * 20_000)).encode()),
    "many tools": lambda r: (_CHAT, json.dumps(chat(tools=[_TOOL] * 500)).encode()),
    "many choices": lambda r: (_COMPLETION, json.dumps(completion(n=128, prompt=["a"] * 100)).encode()),
    "many stops": lambda r: (_COMPLETION, json.dumps(completion(stop=["x" * 1000] * 1000)).encode()),
    "surrogates": lambda r: (_COMPLETION, b'{"model":"m","\\ud800":1,"prompt":"\\ud800"}'),
    "too large": lambda r: (_COMPLETION, b" " * (3 << 20)),
}  # fmt: skip

_POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
RAW: list[Callable[[random.Random], bytes]] = [
    lambda r: r.randbytes(r.choice([1, 100, 10_000])),
    lambda r: _POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    lambda r: _POST + b"Content-Length: " + r.choice([b"-1", b"1e3", b"0x10", b"99999999999999999999", b"+5"]) + b"\r\n\r\n{}",
    lambda r: _POST + b"Transfer-Encoding: chunked\r\n\r\n" + r.choice([b"zz\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n", b"1;a=b\r\n{"]),
    lambda r: b"GET " + r.choice(TEXTS).encode("utf-8", "replace")[:5000] + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    lambda r: b"GET /v1/models HTTP/1.1\r\n" + b"X-A: b\r\n" * r.choice([1, 500, 20_000]) + b"\r\n",
    lambda r: b"GET /health HTTP/1.1\r\nHost: " + r.choice([b"evil", b"[", b"localhost:99999999", b"\xff"]) + b"\r\n\r\n",
    lambda r: damaged(r, _POST + b"Content-Length: 40\r\n\r\n" + json.dumps(completion()).encode()),
    lambda r: b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 30,
]  # fmt: skip


def hostile(rng: random.Random) -> tuple[str, Exchange]:
    """Return a kind and an exchange of it."""
    how = rng.random()
    if how < 0.15:
        name = rng.choice(list(BOMBS))
        return name, BOMBS[name](rng)
    if how < 0.3:
        number = rng.randrange(len(RAW))
        return f"raw {number}", ("raw", RAW[number](rng))
    path, seed = rng.choice(SEEDS)
    if how < 0.4:
        return "damaged body", (path, damaged(rng, json.dumps(seed).encode()))
    return "changed body", (
        path,
        json.dumps(changed(rng, seed), ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass"),
    )
