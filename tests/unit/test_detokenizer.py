"""Text comes out of tokens whole: streamed it equals the text of all tokens, and stop strings never leak."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edge_runtime.engine.detokenizer import IncrementalDecoder, StopStrings
from edge_runtime.engine.tokenizer import Tokenizer

MODEL = Path(__file__).parents[2] / "examples" / "tiny-moe"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(MODEL)


def pieces_of(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = IncrementalDecoder(tokenizer)
    return [*(decoder.push(i) for i in ids), decoder.flush()]


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_deltas_join_to_the_text_and_hold_whole_characters(text):
    tokenizer = Tokenizer.from_folder(MODEL)
    ids = tokenizer.encode(text)
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


WORDS = ["▁", "▁Say", "▁end", "end", "▁▁", "s", "\n", "é", "世", "🦙", "\ufffd", ".", "▁.", "<0x4>", "a b"]


def save_byte_fallback(folder: Path, *, metaspace: bool) -> None:
    """A tokenizer as sentencepiece has them: what is not in the vocabulary is spelt in byte tokens."""
    from tokenizers import AddedToken, decoders, models
    from tokenizers import Tokenizer as Backend

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *WORDS]
    backend = Backend(
        models.BPE({t: i for i, t in enumerate(tokens)}, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    space = decoders.Metaspace() if metaspace else decoders.Replace("▁", " ")
    first = [decoders.ByteFallback(), space] if metaspace else [space, decoders.ByteFallback()]
    rest = [] if metaspace else [decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence([*first, *rest])
    backend.add_special_tokens([AddedToken(t, special=True) for t in ("<s>", "</s>")])
    backend.add_tokens([AddedToken("<tool_call>")])
    backend.save(str(folder / "tokenizer.json"))


def save_byte_level(folder: Path) -> None:
    """The example's tokenizer with added tokens, special and plain, among them one that looks like a byte token."""
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_file(str(MODEL / "tokenizer.json"))
    backend.add_special_tokens([AddedToken("<|end|>", special=True)])
    backend.add_tokens([AddedToken(t) for t in ("<tool_call>", "<0x41>", "世界", "▁x")])
    backend.save(str(folder / "tokenizer.json"))


def save_word_pieces(folder: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models

    words = ["[UNK]", "a", "##b", "c", ".", ",", "n't", "世", "##!", "'s"]
    backend = Backend(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    backend.save(str(folder / "tokenizer.json"))


KINDS = {
    "byte-level": save_byte_level,
    "byte-fallback": partial(save_byte_fallback, metaspace=False),
    "byte-fallback-metaspace": partial(save_byte_fallback, metaspace=True),
    "word-pieces": save_word_pieces,
}


@pytest.fixture(scope="module", params=KINDS)
def any_tokenizer(request, tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp(request.param)
    KINDS[request.param](folder)
    return Tokenizer.from_folder(folder)


def token_ids(tokenizer: Tokenizer, numbers: list[int]) -> list[int]:
    """Token ids of any vocabulary; half of them from its end, where the rare kinds are."""
    size = tokenizer.vocab_size
    return [n % size if n % 2 else size - 1 - n % min(size, 300) for n in numbers]


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(numbers=st.lists(st.integers(0, 1 << 20), max_size=60))
def test_streamed_text_is_the_text_of_all_tokens(any_tokenizer, numbers):
    ids = token_ids(any_tokenizer, numbers)
    for skip in (True, False):
        decoder = IncrementalDecoder(any_tokenizer, skip_special_tokens=skip)
        streamed = "".join([*(decoder.push(i) for i in ids), decoder.flush()])
        assert streamed == any_tokenizer.decode(ids, skip_special_tokens=skip)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(
    prompt=st.lists(st.integers(0, 1 << 20), min_size=1, max_size=12),
    numbers=st.lists(st.integers(0, 1 << 20), max_size=30),
)
def test_an_answer_is_what_it_adds_to_the_text_of_its_prompt(any_tokenizer, prompt, numbers):
    before, ids = token_ids(any_tokenizer, prompt), token_ids(any_tokenizer, numbers)
    start = any_tokenizer.decode(before)
    whole = any_tokenizer.decode([*before, *ids])
    assume(whole.startswith(start) and not start.endswith("\ufffd"))  # an open character belongs to both
    decoder = IncrementalDecoder(any_tokenizer, context=before)
    assert start + "".join([*(decoder.push(i) for i in ids), decoder.flush()]) == whole


@pytest.mark.parametrize("text", ["世界", "世", "🦙界", "🦙\n", "\n\n", "é\nb"])
def test_characters_spelt_in_bytes_come_out_whole(tmp_path, text):
    save_byte_fallback(tmp_path, metaspace=False)
    tokenizer = Tokenizer.from_folder(tmp_path)
    first = 3  # <0x00>
    ids = [first + 256 + 1, *(first + byte for byte in text.encode()), first + 256 + 2]
    assert "".join(pieces_of(tokenizer, ids)) == f"Say{text} end"


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
    tokenizer = Tokenizer.from_folder(tmp_path)
    decoder = IncrementalDecoder(tokenizer, context=[0])
    assert [*(decoder.push(i) for i in (1, 2, 3)), decoder.flush()] == [" world", " foo", "bar", ""]
    fresh = IncrementalDecoder(tokenizer)
    assert "".join(fresh.push(i) for i in (0, 1, 2, 3)) == "Hello world foobar"


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


PARTS = st.lists(st.tuples(st.text("ab<>", min_size=1, max_size=4), st.booleans()), max_size=8)


@settings(deadline=None, max_examples=300)
@given(PARTS, st.lists(st.text("ab<>", min_size=1, max_size=5), min_size=1, max_size=3))
def test_hidden_text_is_matched_and_never_shown(parts, stops):
    feed, shown, arrived = StopStrings(tuple(stops)), "", ""
    visible = []  # whether each character that has arrived may be shown
    for text, is_hidden in parts:
        shown += feed.push(text, is_hidden=is_hidden)
        arrived += text
        visible += [not is_hidden] * len(text)
        if feed.stopped:
            break
    shown += feed.flush()
    found = [arrived.find(stop) for stop in stops if stop in arrived]
    assert feed.stopped == bool(found)
    end = min(found) if found else len(arrived)
    assert shown == "".join(char for char, is_shown in zip(arrived[:end], visible, strict=False) if is_shown)
