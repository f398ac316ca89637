"""Faults of a bundle end with 78 also where a request finds them; mistakes of the caller end with 2."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_copies import copy_of, replace_part

from edge_runtime import Engine
from edge_runtime.__main__ import main
from edge_runtime.base.checksum import crc32c
from edge_runtime.base.errors import RequestError, UnfitBundleError

FLAGS = ("--memory", "1GiB", "--context", "64", "--no-self-check")


def run(capsys: Any, bundle: Path, *words: str) -> tuple[int, str]:
    verb, *rest = words
    code = main([verb, str(bundle), *rest, *FLAGS])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    "template", ["{{ 1 / 0 }}", "{% if %}", "{{ 'a' * 10**9 }}", "{{ raise_exception('no such role') }}"]
)
def test_a_template_that_cannot_render(bundle, capsys, monkeypatch, template):
    config = json.loads((bundle / "tokenizer/tokenizer_config.json").read_text())
    replace_part(bundle, "tokenizer/tokenizer_config.json", json.dumps(config | {"chat_template": template}).encode())
    if (bundle / "tokenizer/chat_template.jinja").exists():
        replace_part(bundle, "tokenizer/chat_template.jinja", template.encode())
    with (
        Engine.open(bundle, memory="1GiB", context=64, self_check=False) as engine,
        pytest.raises(UnfitBundleError, match="chat template") as caught,
    ):
        engine.tokenizer.apply_chat_template([{"role": "user", "content": "x"}])
    assert caught.value.exit_code == 78


def test_weights_that_are_no_numbers(bundle, capsys):
    data = np.frombuffer((bundle / "trunk/head.data").read_bytes(), np.float32).copy()
    data[:] = np.nan
    replace_part(bundle, "trunk/head.data", data.tobytes())
    code, err = run(capsys, bundle, "run", "--prompt", "x", "--max-tokens", "1")
    assert code == 78
    assert "expected finite numbers" in err


def test_a_record_of_another_expert_with_a_true_checksum(bundle, capsys):
    """Both records of two experts and their checksums change places."""
    name = "experts/layer_000.hbx"
    raw = bytearray((bundle / name).read_bytes())
    header, stride = struct.unpack_from("<QQ", raw, 40)
    segments = struct.unpack_from("<I", raw, 32)[0]
    num_experts = struct.unpack_from("<I", raw, 20)[0]
    first = bytes(raw[header : header + stride])
    for expert in range(num_experts):
        raw[header + expert * stride : header + (expert + 1) * stride] = first
        raw[96 + 4 * expert * segments : 96 + 4 * (expert + 1) * segments] = raw[96 : 96 + 4 * segments]
    struct.pack_into("<I", raw, header - 4, crc32c(bytes(raw[: header - 4])))
    replace_part(bundle, name, bytes(raw))
    code, err = run(capsys, bundle, "run", "--prompt", "import os", "--max-tokens", "1")
    assert code == 78, err
    assert "expected the record of this expert" in err


def test_a_tokenizer_that_knows_tokens_the_model_lacks(bundle, capsys):
    data = json.loads((bundle / "tokenizer/tokenizer.json").read_bytes())
    token = {"id": 4099, "content": "<far>", "special": False, "normalized": False}
    token |= dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    data["added_tokens"].append(token)
    data["model"]["vocab"] |= {f"<pad{i}>": 4096 + i for i in range(3)}
    replace_part(bundle, "tokenizer/tokenizer.json", json.dumps(data).encode())
    code, err = run(capsys, bundle, "run", "--prompt", "a <far> b", "--max-tokens", "1")
    assert code == 78, err
    assert "outside the vocabulary of 4096" in err
    assert run(capsys, bundle, "run", "--prompt", "a near b", "--max-tokens", "1")[0] == 0


def test_mistakes_of_the_caller(model_bundle, tmp_path, capsys):
    copy = copy_of(model_bundle, tmp_path / "bundle")
    assert run(capsys, copy, "run", "--prompt", "word " * 500)[0] == 2
    assert run(capsys, copy, "run", "--prompt", "")[0] == 2
    with Engine.open(copy, memory="1GiB", context=64) as engine, pytest.raises(RequestError) as caught:
        engine.generate([5000])
    assert caught.value.exit_code == 2
