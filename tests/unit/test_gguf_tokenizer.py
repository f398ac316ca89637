"""Tokenizers made from the keys of GGUF files encode every text as the model's original tokenizer does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import pytest
from conftest import MODEL, REPO
from gguf_files import add_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from published_tokenizers import PUBLISHED, template, tokenizer_json
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from edge_runtime.base.errors import ConfigError
from edge_runtime.bundle.tokenizer_file import check_tokenizer
from hobbit_export.gguf.header import read_header
from hobbit_export.gguf.tokenizer.files import tokenizer_files

END = "<|end|>"
LEARNED = 700
# name in published_tokenizers.py -> name GGUF files give its pre-tokenizer
NAMES = {
    "Qwen3": "qwen2", "Llama 3": "llama-bpe", "gpt-oss": "gpt-4o", "DeepSeek V3": "deepseek-v3", "OLMoE": "olmo",
    "Granite": "refact",
}  # fmt: skip
TEXTS = [
    "", " ", "  ", "\n", "\t \n\n  x", "Hello world", " Hello  world ", "I'll say he's THEY'RE they'Ve 'tis",
    "3 33 333 3333 33333 3.14 1,000,000 0x1F", "def f(x):\n    return x ** 2  # trailing\r\n\r\n", "a\u0301 e\u0301 \u1e9b\u0323",
    "我想在apple工作1314151天～", "こんにちは世界。カタカナ", "안녕하세요 세계", "нещо на Български", "Ελληνικά ΆΈ", "שלום עולם", "हिन्दी में लिखा",
    "កាន់តែពិសេសអាច😁", "🚀 (normal) 😶\u200d🌫️ (multiple emojis concatenated) ✅ 🦙🦙", "a<|end|>b <|end|>", "<|end|><|end|>",
    "``````\"\"\"\"......!!!!!!??????", "camelCaseWord HTTPServer iPhone12Pro", "x_1=y_2/z_3;//c", "\u00a0\u2003\u3000wide",
    "\x00\x01\x7f", "ＦＵＬＬ width ﬁ ligature", "price: $5.00 €3 £2 ₿1", "path/to/file.txt https://a.b/c?d=e&f=g#h",
    "the the the of and in to a is that it was for on", "tab\tseparated\tvalues\n1\t2\t3\n",
]  # fmt: skip


def metadata_of(out: Path, keys: Mapping[str, Any]) -> Any:
    writer = gguf.GGUFWriter(out, "llama")
    for name, value in keys.items():
        key = f"tokenizer.ggml.{name}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read_header(out).metadata


def loaded(metadata: Any, vocab_size: int) -> Tokenizer:
    raw = tokenizer_files(metadata, vocab_size)["tokenizer.json"]
    check_tokenizer(raw, vocab_size)
    return Tokenizer.from_str(raw.decode())


def assert_same(made: Tokenizer, original: Tokenizer, text: str) -> None:
    for special in (True, False):
        expected = original.encode(text, add_special_tokens=special).ids
        assert made.encode(text, add_special_tokens=special).ids == expected, text
    ids = original.encode(text).ids
    assert made.decode(ids) == original.decode(ids)


@pytest.fixture(scope="module")
def learned() -> tuple[dict[str, int], list[str]]:
    """Vocabulary and merges of a byte-level tokenizer that learned from this project's pages."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=LEARNED, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    pages = [(REPO / name).read_text() for name in ("README.md", "ARCHITECTURE.md", "docs/format.md")]
    tokenizer.train_from_iterator([*pages, *TEXTS * 3], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [" ".join(merge) for merge in model["merges"]]


def pair(name: str, learned: tuple[dict[str, int], list[str]], out: Path) -> tuple[Tokenizer, Tokenizer]:
    """The tokenizer made from a file, and the original."""
    vocab, merges = learned
    parts = json.loads(
        json.dumps(PUBLISHED[name]).replace(json.dumps(template(END, 256)), json.dumps(template(END, LEARNED)))
    )
    original = tokenizer_json(**parts, vocab=vocab, merges=merges)
    original["added_tokens"][0]["id"] = LEARNED
    tokens = [token for token, _ in sorted(vocab.items(), key=lambda item: item[1])]
    metadata = metadata_of(
        out,
        {
            "model": "gpt2", "pre": NAMES[name], "merges": merges, "bos_token_id": LEARNED,
            "tokens": [*tokens, END, *(f"[PAD{LEARNED + i}]" for i in (1, 2))],
            "token_type": [1] * LEARNED + [3, 5, 5], "add_bos_token": "TemplateProcessing" in json.dumps(original),
        },
    )  # fmt: skip
    return loaded(metadata, LEARNED + 3), Tokenizer.from_str(json.dumps(original))


@pytest.mark.parametrize("name", NAMES)
def test_a_pre_tokenizer_is_known_by_its_name(name, learned, tmp_path):
    made, original = pair(name, learned, tmp_path / "m.gguf")
    for text in TEXTS:
        assert_same(made, original, text)

    @settings(max_examples=60, derandomize=True)
    @given(st.text(max_size=40) | st.text("aé1 '\n\tL好\u0301-", max_size=30))
    def any_text(text: str) -> None:
        assert_same(made, original, text)

    any_text()


def test_the_bundled_model(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    add_vocabulary(writer, MODEL, 4096, "gpt-2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    files = tokenizer_files(read_header(tmp_path / "m.gguf").metadata, 4096)
    made, original = (
        Tokenizer.from_str(raw) for raw in (files["tokenizer.json"].decode(), (MODEL / "tokenizer.json").read_text())
    )
    for text in [*TEXTS, (MODEL / "heldout_prose.txt").read_text(), (MODEL / "heldout_python.txt").read_text()]:
        assert_same(made, original, text)
    config = json.loads(files["tokenizer_config.json"])
    assert config["eos_token"] == config["bos_token"] == "<|endoftext|>"
    assert config["chat_template"] == (MODEL / "chat_template.jinja").read_text()


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("name", "pre"), [("Qwen2Tokenizer", "qwen2"), ("Qwen3_5Tokenizer", "qwen35"), ("GPT2Tokenizer", "gpt-2")]
)
def test_against_the_tokenizers_of_transformers(name, pre, learned, tmp_path):
    transformers = pytest.importorskip("transformers")
    vocab, merges = learned
    tokens = [token for token, _ in sorted(vocab.items(), key=lambda item: item[1])]
    pairs = [tuple(merge.split(" ")) for merge in merges]
    original = getattr(transformers, name)(vocab=vocab | {END: LEARNED}, merges=pairs, eos_token=END, unk_token=END)
    metadata = metadata_of(
        tmp_path / "m.gguf",
        {"model": "gpt2", "pre": pre, "merges": merges, "tokens": [*tokens, END], "token_type": [1] * LEARNED + [3]},
    )
    made = loaded(metadata, LEARNED + 1)
    for text in TEXTS:
        assert made.encode(text, add_special_tokens=False).ids == original.encode(text, add_special_tokens=False), text


def test_gemma(tmp_path):
    """Letters, marked spaces, bytes for all else; merges that reach across what a split leaves together."""
    pieces = [
        "<unk>",
        END,
        *(f"<0x{i:02X}>" for i in range(256)),
        "▁",
        *"abcdehlorw",
        "▁h",
        "el",
        "lo",
        "ello",
        "▁hello",
    ]
    merges = ["▁ h", "e l", "l o", "el lo", "▁h ello"]
    parts = json.loads(json.dumps(PUBLISHED["Gemma"]))
    vocab = {piece: i for i, piece in enumerate(pieces)}
    original = tokenizer_json(**parts, vocab=vocab, merges=merges, unk_token="<unk>", post_processor=template(END, 1))
    original["added_tokens"][0]["id"] = 1
    keys = {
        "model": "gemma4", "tokens": pieces, "token_type": [2, 3, *[6] * 256, *[1] * (len(pieces) - 258)], "merges": merges,
        "bos_token_id": 1, "unknown_token_id": 0, "add_space_prefix": False,
    }  # fmt: skip
    made = loaded(metadata_of(tmp_path / "m.gguf", keys), len(pieces))
    for text in ["hello hello", " hello  world", "a hello!", "好 hello\n", *TEXTS]:
        assert_same(made, Tokenizer.from_str(json.dumps(original)), text)


def test_sentence_piece(tmp_path):
    """Against SentencePiece itself: pieces, scores and types as its model has them."""
    sentencepiece = pytest.importorskip("sentencepiece")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join((REPO / name).read_text() for name in ("README.md", "docs/format.md")))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "sp"), model_type="bpe", vocab_size=900, byte_fallback=True,
        split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False, user_defined_symbols=["[x]"],
        character_coverage=0.999, minloglevel=2,
    )  # fmt: skip
    original = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sp.model"))
    types = [
        2 if original.is_unknown(i) else 3 if original.is_control(i) else 6 if original.is_byte(i)
        else 4 if original.id_to_piece(i) == "[x]" else 1
        for i in range(len(original))
    ]  # fmt: skip
    keys = {
        "model": "llama", "pre": "default", "tokens": [original.id_to_piece(i) for i in range(len(original))],
        "scores": [original.get_score(i) for i in range(len(original))], "token_type": types,
        "bos_token_id": original.bos_id(), "eos_token_id": original.eos_id(), "unknown_token_id": original.unk_id(),
    }  # fmt: skip
    made = loaded(metadata_of(tmp_path / "m.gguf", keys), len(original))
    for text in [*TEXTS, *(REPO / "docs/memory.md").read_text().split("\n\n")[:40]]:
        if not text or any(special in text for special in ("\x00", "▁")):
            continue
        ids = original.encode(text)
        assert made.encode(text, add_special_tokens=False).ids == ids, text
        assert made.encode(text).ids == [original.bos_id(), *ids]
        assert made.decode(ids) == original.decode(ids)

    flat = {**keys, "scores": [0.0] * len(original)}
    with pytest.raises(ConfigError, match=r"all tokens have the same score: .* --tokenizer DIR"):
        loaded(metadata_of(tmp_path / "flat.gguf", flat), len(original))
    without = metadata_of(tmp_path / "plain.gguf", {**keys, "add_space_prefix": False, "add_bos_token": False})
    plain = loaded(without, len(original))
    assert plain.encode("in").ids != made.encode("in", add_special_tokens=False).ids
    assert plain.decode(plain.encode(" a text ").ids) == " a text "
