"""Where an answer ends: every token that is known to end one, stop strings over special tokens too, and the limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MODEL
from specs import model_spec

from edge_runtime.engine.continuation import Continuation
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.engine.tokenizer import Tokenizer

ENDOFTEXT, IM_START, IM_END = 0, 1, 2


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(MODEL)


def generate(
    tokenizer: Tokenizer, script: list[int], *, eos: tuple[int, ...] = (), **params: Any
) -> tuple[str, str | None, int]:
    """Let a model say these tokens; return text, reason, and how many of them it said."""
    continuation = Continuation(tokenizer, SamplingParams(**params), np.array([5], np.int32), eos=eos, context=64)
    for count, token in enumerate(script, 1):
        logits = np.zeros(4096, np.float32)
        logits[token] = 10
        reason = continuation.next(logits).finish_reason
        if reason is not None:
            return continuation.text, reason, count
    return continuation.text, None, len(script)


def tokens(tokenizer: Tokenizer, *parts: str | int) -> list[int]:
    return [token for part in parts for token in ([part] if isinstance(part, int) else tokenizer.encode(part))]


@pytest.mark.parametrize("end", [ENDOFTEXT, IM_END])
def test_every_stop_token_ends_the_text(tokenizer, end):
    script = tokens(tokenizer, "Yes.", end, "No.")
    text, reason, count = generate(tokenizer, script, eos=(ENDOFTEXT, IM_END))
    assert (text, reason, count) == ("Yes.", "stop", script.index(end) + 1)


def test_nothing_but_the_limit_ends_a_text_without_stop_tokens(tokenizer):
    script = tokens(tokenizer, "Yes.", IM_END, "No.", ENDOFTEXT, "Yes.")
    assert generate(tokenizer, script) == ("Yes.No.Yes.", None, len(script))
    text, reason, count = generate(tokenizer, script, max_tokens=3)
    assert (reason, count) == ("length", 3)
    assert text
    assert "Yes.No.".startswith(text)
    assert generate(tokenizer, script, eos=(IM_END,), ignore_eos=True) == ("Yes.No.Yes.", None, len(script))


@pytest.mark.parametrize(
    ("stop", "parts", "text", "reason"),
    [
        (["<|im_end|>"], ["Yes.", IM_END, "No."], "Yes.", "stop"),
        (["<|im_start|>", "<|im_end|>"], ["Yes.", IM_END, "No."], "Yes.", "stop"),
        (["<|im_end|>\n"], ["Yes.", IM_END, "\n", "No."], "Yes.", "stop"),
        (["s.<|im_end|>"], ["Yes.", IM_END, "No."], "Ye", "stop"),
        (["<|im_end|><|im_start|>"], ["Yes.", IM_END, IM_START, "No."], "Yes.", "stop"),
        # a special token that no stop string ends at is not shown, wherever it stands
        (["<|im_end|>\n"], ["Yes.", IM_END, "No."], "Yes.No.", None),
        (["<|im_start|>"], ["Yes.", IM_END, "No."], "Yes.No.", None),
        (["Yes.No"], ["Yes.", IM_END, "No."], "Yes.No.", None),
        (["im_end"], ["Yes.", IM_END, "No."], "Yes.", "stop"),
    ],
)  # fmt: skip
def test_a_stop_string_may_name_special_tokens(tokenizer, stop, parts, text, reason):
    found = generate(tokenizer, tokens(tokenizer, *parts), stop=stop)
    assert found[:2] == (text, reason)


def test_what_a_stop_string_holds_back_comes_out_at_the_end_of_the_text(tokenizer):
    script = tokens(tokenizer, "Yes", IM_END, ENDOFTEXT)
    assert generate(tokenizer, script, stop=["s<|im_end|>\n"], eos=(ENDOFTEXT,)) == ("Yes", "stop", len(script))
    assert generate(tokenizer, script[:-1], stop=["s<|im_end|>\n"], max_tokens=len(script) - 1)[:2] == ("Yes", "length")


def with_config(tmp_path: Path, config: dict[str, Any], special: dict[str, Any] | None = None) -> Tokenizer:
    (tmp_path / "tokenizer.json").write_bytes((MODEL / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    if special is not None:
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    return Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("config", "special", "stated", "expected"),
    [
        ({"eos_token": "<|im_end|>"}, None, [ENDOFTEXT], (ENDOFTEXT, IM_END)),
        ({"eos_token": "<|im_end|>"}, None, [], (IM_END,)),
        ({"eos_token": "<|im_end|>"}, None, [IM_END], (IM_END,)),
        ({"eos_token": {"content": "<|im_end|>", "special": True}}, None, [ENDOFTEXT], (ENDOFTEXT, IM_END)),
        ({}, {"eos_token": {"content": "<|im_end|>"}}, [7], (7, IM_END)),
        ({"eos_token": None}, None, [7], (7,)),
        ({"eos_token": "</s>"}, None, [7], (7,)),  # which is no token
        ({}, None, [], ()),
    ],
)
def test_the_tokenizers_own_end_joins_the_models(tmp_path, config, special, stated, expected):
    spec = model_spec(vocab_size=4096, eos_token_ids=stated)
    assert with_config(tmp_path, config, special).stop_tokens(spec) == expected


def test_a_token_the_model_cannot_generate_ends_nothing(tmp_path):
    tokenizer = with_config(tmp_path, {"eos_token": "<|im_end|>"})
    assert tokenizer.stop_tokens(model_spec(vocab_size=2, eos_token_ids=[1])) == (1,)
