"""Detokenisation never splits a character, stop strings never leak, chat templates render as transformers renders them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.base.errors import BundleError, ConfigError, RequestError
from edge_runtime.engine.tokenizer import IncrementalDecoder, StopStrings, Tokenizer

MODEL = Path(__file__).parents[2] / "examples" / "tiny-moe"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(MODEL)


def pieces_of(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = IncrementalDecoder(tokenizer)
    return [*(decoder.push(i) for i in ids), decoder.flush()]


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_pieces_join_to_the_text_and_hold_whole_characters(text):
    tokenizer = Tokenizer(MODEL)
    ids = tokenizer.encode(text)
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 4095), max_size=40))
def test_random_tokens_never_crash_and_lose_no_valid_text(ids):
    tokenizer = Tokenizer(MODEL)
    joined = "".join(pieces_of(tokenizer, ids))
    # how many replacement characters stand for broken bytes is the decoder's choice; the valid text is not
    assert joined.replace("\ufffd", "") == tokenizer.decode(ids).replace("\ufffd", "")


def test_a_character_of_several_tokens_comes_out_once_whole(tokenizer):
    ids = tokenizer.encode("🦀")
    assert len(ids) > 1
    decoder = IncrementalDecoder(tokenizer)
    assert [decoder.push(i) for i in ids] == [""] * (len(ids) - 1) + ["🦀"]


def test_word_joining_decoders_keep_the_space_after_the_prompt(tmp_path):
    """Decoders of sentencepiece kind drop a leading space: only the text's own, not the continuation's."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models

    words = ["▁Hello", "▁world", "▁foo", "bar"]
    backend = Backend(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=words[0]))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path)
    decoder = IncrementalDecoder(tokenizer, context=[0])
    assert [*(decoder.push(i) for i in (1, 2, 3)), decoder.flush()] == [" world", " foo", "bar", ""]
    fresh = IncrementalDecoder(tokenizer)
    assert "".join(fresh.push(i) for i in (0, 1, 2, 3)) == "Hello world foobar"


def test_a_long_text_is_refused_by_its_beginning(tokenizer, monkeypatch):
    sizes = []
    monkeypatch.setattr(Tokenizer, "encode", lambda self, text: sizes.append(len(text)) or list(range(len(text) // 4)))
    with pytest.raises(RequestError, match="exceed the context of 10"):
        tokenizer.encode_within("x" * 10**6, 10)
    assert max(sizes) <= 320
    assert len(tokenizer.encode_within("x" * 40, 10)) == 10


@settings(max_examples=300, deadline=None)
@given(
    text=st.text("ab#\n", max_size=30),
    stops=st.lists(st.text("ab#\n", min_size=1, max_size=4), min_size=1, max_size=3),
    cuts=st.lists(st.integers(1, 4), min_size=30, max_size=30),
)
def test_stop_strings_cut_where_the_first_one_starts_however_text_arrives(text, stops, cuts):
    feed, shown, at = StopStrings(tuple(stops)), "", 0
    for size in cuts:
        shown += feed.push(text[at : at + size])
        at += size
        if feed.stopped:
            break
    shown += feed.flush()
    arrived = text[:at]
    found = [arrived.find(s) for s in stops if s in arrived]
    assert feed.stopped == bool(found)
    if found:
        # the stop found is the first to be complete, so nothing shown contains one, and what is shown is a prefix
        assert arrived.startswith(shown)
        assert not any(s in shown for s in stops)
    else:
        assert shown == arrived


@pytest.mark.oracle
def test_chat_template_renders_as_transformers_does(tmp_path):
    from transformers import AutoTokenizer

    messages = [{"role": "user", "content": "Hi {there}"}, {"role": "assistant", "content": "Yes"}]
    templates = {
        "plain": (MODEL / "chat_template.jinja").read_text(),
        "blocks": "{{ bos_token }}\n{%- for m in messages %}\n    {% if m.role == 'user' %}\nU: {{ m.content | tojson }}"
        "\n    {% else %}\nA: {{ m.content }}{{ eos_token }}\n    {% endif %}\n{%- endfor %}\n",
    }
    for name, template in templates.items():
        folder = tmp_path / name
        shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.txt"))
        (folder / "chat_template.jinja").write_text(template)
        expected = AutoTokenizer.from_pretrained(folder).apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        assert Tokenizer(folder).apply_chat_template(messages) == expected


def test_template_problems_are_named(tmp_path):
    shutil.copy(MODEL / "tokenizer.json", tmp_path)
    with pytest.raises(ConfigError, match="no chat template"):
        Tokenizer(tmp_path).apply_chat_template([])
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "{{ raise_exception('only users') }}"})
    )
    with pytest.raises(RequestError, match="only users"):
        Tokenizer(tmp_path).apply_chat_template([])
    # a template is untrusted code: it must not reach Python's internals
    (tmp_path / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(RequestError, match="chat template"):
        Tokenizer(tmp_path).apply_chat_template([])


def test_damaged_files_are_bundle_errors(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BundleError, match="tokenizer.json"):
        Tokenizer(tmp_path)
    shutil.copy(MODEL / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(BundleError, match="tokenizer_config"):
        Tokenizer(tmp_path)
