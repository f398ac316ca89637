"""Log probabilities of an answer: kept small, encoded in parts, placed in the text, and bounded."""

from __future__ import annotations

import json
import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import MODEL
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.engine.detokenizer import decode_apart, starts_of
from edge_runtime.engine.job import TokenLogprob
from edge_runtime.engine.sequence import likeliest
from edge_runtime.engine.tokenizer import Tokenizer
from edge_runtime.service.openai.api_errors import ApiError
from edge_runtime.service.openai.logprobs import MAX_LOGPROBS, LazyList, LogprobTable, Row, encoded, finite
from edge_runtime.service.openai.prompts import Prompts


def test_rows_come_back_as_they_went_in() -> None:
    rows = [Row(7, None), Row(1, -0.5, [TokenLogprob(2, -0.1), TokenLogprob(1, -0.5)]), Row(3, -2.0)]
    table = LogprobTable()
    for row in rows:
        table.add(row)
    assert [(r.token_id, r.logprob, list(r.top)) for r in table] == [(r[0], r[1], list(r[2])) for r in rows]
    assert len(table) == 3
    without = LogprobTable()
    without.add(Row(7, -1.0))
    assert [row.logprob for row in without] == [-1.0]


def test_the_most_that_a_request_may_ask_for_takes_little_memory() -> None:
    table, top = LogprobTable(), [TokenLogprob(i, -float(i)) for i in range(20)]
    tracemalloc.start()
    try:
        for token in range(MAX_LOGPROBS // 21):
            table.add(Row(token, -1.0, top))
        objects = {"content": LazyList(lambda: ({"id": row.token_id, "top": dict(row.top)} for row in table))}
        sizes = [len(part) for part in encoded({"choices": [objects]})]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(sizes) > 8 << 20
    assert max(sizes) < 1 << 17
    assert peak < 20 << 20


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.lists(json_values), json_values)
def test_what_is_encoded_in_parts_is_the_same_json(items: list[Any], other: Any) -> None:
    text = b"".join(encoded({"lazy": LazyList(lambda: iter(items)), "plain": items, "other": [other]}))
    assert json.loads(text) == {"lazy": items, "plain": items, "other": [other]}
    assert text == json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")).encode()


def test_no_number_leaves_json() -> None:
    assert [finite(value) for value in (None, -0.1234567, -np.inf, np.nan)] == [None, -0.123457, -9999.0, -9999.0]


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_starts_cut_a_text_into_its_tokens(text: str) -> None:
    tokenizer = Tokenizer.from_folder(MODEL)
    ids, starts = tokenizer.encode(text), starts_of(tokenizer.spans(text))
    assert len(starts) == len(ids)
    assert starts == sorted(starts)
    decoded, others = decode_apart(tokenizer, ids)
    assert decoded == text
    assert others == starts


@pytest.mark.parametrize(
    ("spans", "starts"),
    [
        ([(0, 0), (0, 5), (6, 11)], [0, 0, 5]),  # a token before the text; a space that counts to none
        ([(0, 1), (0, 1), (0, 1), (1, 2)], [0, 0, 0, 1]),  # bytes of one character
        ([(2, 4), (4, 4)], [0, 4]),  # spaces dropped in front, a token behind the text
        ([], []),
    ],
)
def test_starts_follow_from_spans(spans: list[tuple[int, int]], starts: list[int]) -> None:
    assert starts_of(spans) == starts


def test_the_likeliest_are_in_order() -> None:
    logits = np.array([0, 3, 1, 2], np.float32)
    logprob, ids, values = likeliest(logits, 0, 3)
    expected = logits - np.log(np.exp(logits).sum())
    assert ids.tolist() == [1, 3, 2]
    assert np.allclose([logprob, *values], expected[[0, 1, 3, 2]])
    assert likeliest(logits, 0, 0)[1].tolist() == []
    assert likeliest(logits, 0, 20)[1].tolist() == [1, 3, 2, 0]


@pytest.mark.parametrize(
    ("asked", "lengths", "is_echoed", "is_fine"),
    [
        ({"alternatives": None, "answers": 64}, [10_000] * 64, True, True),
        ({"alternatives": 20, "token_limit": 100}, [10_000], False, True),
        ({"alternatives": 20}, [1], False, True),
        ({"alternatives": 20, "answers": 2}, [1], False, False),  # what the context leaves, twice
        ({"alternatives": 20, "answers": 2, "token_limit": 20_000}, [1], False, True),
        ({"alternatives": 20, "answers": 3, "token_limit": 1}, [20_000], False, True),
        ({"alternatives": 20, "answers": 3, "token_limit": 1}, [20_000], True, False),
        ({"alternatives": 1, "token_limit": 1}, [10_000] * 52, True, True),
        ({"alternatives": 1, "token_limit": 1}, [10_000] * 53, True, False),
    ],
)
def test_log_probabilities_of_a_request_are_bounded(
    asked: dict[str, Any], lengths: list[int], is_echoed: bool, is_fine: bool
) -> None:
    prompts = Prompts(Tokenizer.from_folder(MODEL), 4096, 32_768, None)
    request: Any = SimpleNamespace(**{"token_limit": None, "answers": 1} | asked)
    ids = [np.zeros(length, np.int32) for length in lengths]
    if is_fine:
        prompts.check_logprobs(request, ids, "logprobs", is_echoed=is_echoed)
        return
    with pytest.raises(ApiError, match=r"logprobs: up to \d+ log probabilities .* expected at most 1048576") as caught:
        prompts.check_logprobs(request, ids, "logprobs", is_echoed=is_echoed)
    assert (caught.value.status, caught.value.param) == (400, "logprobs")
