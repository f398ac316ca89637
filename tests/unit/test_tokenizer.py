"""Text becomes tokens whole, chat templates render as transformers renders them, damaged files are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.base.errors import BundleError, ConfigError, RequestError
from edge_runtime.engine.tokenizer import Tokenizer

MODEL = Path(__file__).parents[2] / "examples" / "tiny-moe"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(MODEL)


CUT = {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
FILL = {
    "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
    "pad_token": "[PAD]",
}  # fmt: skip
BATCHES: dict[str, dict[str, Any]] = {
    "both": {"truncation": CUT, "padding": FILL},
    "truncation": {"truncation": CUT},
    "truncation of the beginning": {"truncation": CUT | {"direction": "Left", "max_length": 3, "stride": 1}},
    "padding": {"padding": FILL},
    "padding in front": {"padding": FILL | {"direction": "Left"}},
    "padding to a multiple": {"padding": FILL | {"strategy": "BatchLongest", "pad_to_multiple_of": 8}},
}


@pytest.mark.parametrize("batch", BATCHES)
def test_truncation_and_padding_of_training_batches_are_off(tokenizer, tmp_path, batch):
    data = json.loads((MODEL / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(data | BATCHES[batch]))
    cut = Tokenizer.from_folder(tmp_path)
    for text in ("a", "one word after another, more than eight tokens of them, and then some more"):
        assert cut.encode(text) == tokenizer.encode(text)
        assert cut.encode_within(text, 100) == tokenizer.encode(text)
        assert cut.decode(cut.encode(text)) == text


def test_a_long_text_is_refused_by_its_beginning(tokenizer, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        Tokenizer, "encode", lambda self, text, **_: sizes.append(len(text)) or list(range(len(text) // 4))
    )
    with pytest.raises(RequestError, match="exceed the context of 10"):
        tokenizer.encode_within("x" * 10**6, 10)
    assert max(sizes) <= 320
    assert len(tokenizer.encode_within("x" * 40, 10)) == 10


def test_template_problems_are_named(tmp_path):
    shutil.copy(MODEL / "tokenizer.json", tmp_path)
    with pytest.raises(ConfigError, match="no chat template"):
        Tokenizer.from_folder(tmp_path).apply_chat_template([])
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "{{ raise_exception('only users') }}"})
    )
    with pytest.raises(RequestError, match="only users"):
        Tokenizer.from_folder(tmp_path).apply_chat_template([])
    # a template is untrusted code: it must not reach Python's internals
    (tmp_path / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(RequestError, match="chat template"):
        Tokenizer.from_folder(tmp_path).apply_chat_template([])


def test_damaged_files_are_bundle_errors(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BundleError, match="tokenizer.json"):
        Tokenizer.from_folder(tmp_path)
    shutil.copy(MODEL / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(BundleError, match="tokenizer_config"):
        Tokenizer.from_folder(tmp_path)
