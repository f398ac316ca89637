"""Chat templates of published models, written anew (tests/published_configs): rendered, and what they are found to have."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import published_checkpoint
import pytest
from published_tokenizers import tokenizer_json

from edge_runtime.engine.tokenizer import Tokenizer
from edge_runtime.service.openai.chat import ChatFormat

TEMPLATE = "chat_template.jinja"
MODELS = [model for model in published_checkpoint.MODELS if (published_checkpoint.FOLDER / model / TEMPLATE).exists()]
HI = [{"role": "user", "content": "Hi"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": PARAMETERS}}
CALL = {
    "id": "call_1", "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Paris", "days": 2}},
}  # fmt: skip
CALLING: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "name": "weather", "content": "Rain."},
    {"role": "user", "content": "Thanks."},
]


def chat_of(model: str) -> dict[str, Any]:
    """What is known of a model's template."""
    found: dict[str, Any] = published_checkpoint.read(model, "source.json")["chat"]
    return found


def folder_of(model: str, out: Path) -> Path:
    """The model's template and special tokens, with a small tokenizer."""
    for name in ("tokenizer_config.json", TEMPLATE):
        shutil.copy(published_checkpoint.FOLDER / model / name, out)
    (out / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    return out


def conversations(model: str) -> list[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Messages and variables that the template takes."""
    plain = [message for message in CALLING if message["role"] == "user"][:1]
    turns = [*plain, {"role": "assistant", "content": "Wet."}, {"role": "user", "content": "Thanks."}]
    found: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [(HI, {}), ([CALLING[0], *turns], {})]
    if chat_of(model)["tools"]:
        found += [(HI, {"tools": [TOOL]}), (CALLING, {"tools": [TOOL]})]
    if chat_of(model)["thinking"]:
        thought = {"role": "assistant", "content": "Wet.", "reasoning_content": "Clouds."}
        found += [(HI, {"enable_thinking": on}) for on in (True, False)] + [([*plain, thought], {})]
    return found


def test_there_are_enough_of_every_kind() -> None:
    families = {published_checkpoint.read(model, "config.json")["model_type"] for model in MODELS}
    assert len(MODELS) >= 12
    assert len(families) >= 20
    assert {chat_of(model)["tools"] for model in MODELS} >= {
        None, "Hermes", "Qwen's XML", "GLM", "Gemma", "LFM2", "MiniMax", "harmony",
    }  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_the_prompt_of_one_message(model: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder_of(model, tmp_path))
    bos = published_checkpoint.read(model, "tokenizer_config.json").get("bos_token")
    bos = bos["content"] if isinstance(bos, dict) else bos
    wanted = chat_of(model)["prompt"].replace("{bos}", bos or "")
    assert tokenizer.apply_chat_template(HI).endswith(wanted)


@pytest.mark.parametrize("model", MODELS)
def test_tools_and_thinking_are_found(model: str, tmp_path: Path) -> None:
    tool = importlib.import_module("models_table")
    known = chat_of(model)
    assert tool.chat_of(model) == (known["tools"] or "-", known["thinking"] or "-")
    chat = ChatFormat(Tokenizer.from_folder(folder_of(model, tmp_path)))
    assert (chat.calls is not None or chat.is_harmony) == (known["tools"] is not None)
    assert (chat.thinking is not None or chat.is_harmony) == (known["thinking"] is not None)


@pytest.mark.oracle
@pytest.mark.parametrize("model", MODELS)
def test_rendered_as_transformers_does(model: str, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    folder = folder_of(model, tmp_path)
    config = published_checkpoint.read(model, "tokenizer_config.json")
    special = {key: config[key] for key in config if key.endswith("_token") and isinstance(config[key], str)}
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)
    theirs.chat_template = (folder / TEMPLATE).read_text()
    ours = Tokenizer.from_folder(folder)
    for messages, more in conversations(model):
        wanted = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **more)
        assert ours.apply_chat_template(messages, **more) == wanted
        said = [message["content"] for message in messages if message["role"] != "assistant"]
        assert all(text in wanted for text in said)
        assert "weather" in wanted or "tools" not in more
