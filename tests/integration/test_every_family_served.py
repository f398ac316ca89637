"""Every family behind the HTTP API, with the chat template of a published model: chats, and calls of tools where it has them."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import published_checkpoint
import pytest
from families import CONFIG_CLASSES, FAMILY_CASES, family_of, make_checkpoint
from patience import PATIENCE_S

from edge_runtime.service.config import ServiceConfig
from edge_runtime.service.http.app import create_app
from edge_runtime.service.http.exchange import HttpLimits
from edge_runtime.service.ops.health import Phase
from edge_runtime.service.service import Service

pytestmark = pytest.mark.oracle
SIBLINGS = {"gemma4_text": "gemma4", "qwen3_5_moe_text": "qwen3_5_moe", "granitemoeshared": "granitemoe"}
TOOL = {
    "type": "function",
    "function": {
        "name": "sky",
        "strict": True,
        "parameters": {
            "type": "object", "properties": {"of": {"type": "string", "enum": ["Rome", "Oslo"]}}, "required": ["of"],
            "additionalProperties": False,
        },
    },
}  # fmt: skip


def model_of(family: str) -> str:
    """A published model of the family whose chat template is among ours."""
    wanted = SIBLINGS.get(family, family)
    return next(
        model
        for model in published_checkpoint.MODELS
        if published_checkpoint.read(model, "config.json")["model_type"] == wanted
        and (published_checkpoint.FOLDER / model / "chat_template.jinja").exists()
    )


@pytest.fixture(params=CONFIG_CLASSES)
def served(request: Any, shared_folder: Path, exported: Any) -> Iterator[tuple[Service, str]]:
    """A service of the first case of a family, and the model whose template it has."""
    case, model = next(case for case in FAMILY_CASES if family_of(case) == request.param), model_of(request.param)
    checkpoint = shared_folder / f"served-{case}"
    make_checkpoint(case, checkpoint)
    shutil.copy(published_checkpoint.FOLDER / model / "chat_template.jinja", checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    text = config.get("text_config", config)
    text["max_position_embeddings"] = max(text.get("max_position_embeddings", 0), 1024)  # a token is a byte here
    (checkpoint / "config.json").write_text(json.dumps(config))
    options = {"memory": "1GiB", "context": 1024, "threads": 1}
    bundle = exported(checkpoint, "--tiers", "8")
    service = Service(ServiceConfig(bundle, options, environment={}, self_check=False, verify=False))
    service.start()
    deadline = time.monotonic() + PATIENCE_S
    while service.readiness.phase is Phase.LOADING and time.monotonic() < deadline:
        time.sleep(0.01)
    assert service.readiness.phase is Phase.READY, service.readiness.reason
    yield service, model
    service.close()


def ask(service: Service, **body: Any) -> dict[str, Any]:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(service, HttpLimits()))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as client:
            return await client.post("/v1/chat/completions", json=body, timeout=PATIENCE_S)

    answer = asyncio.run(send())
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_chats_and_tools(served: tuple[Service, str]) -> None:
    service, model = served
    chat = published_checkpoint.read(model, "source.json")["chat"]
    hi: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
    first, again = (ask(service, **hi, max_tokens=12) for _ in range(2))
    assert first["choices"][0]["message"] == again["choices"][0]["message"]
    assert first["usage"]["completion_tokens"] == 12 or first["choices"][0]["finish_reason"] == "stop"
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    if chat["tools"] is None:
        return
    # the thinking that a template opens takes half of the tokens there are
    called = ask(service, **hi, tools=[TOOL], tool_choice="required", max_tokens=300)["choices"][0]
    assert called["finish_reason"] == "tool_calls"
    (call,) = called["message"]["tool_calls"]
    assert call["function"]["name"] == "sky"
    assert json.loads(call["function"]["arguments"])["of"] in ("Rome", "Oslo")
