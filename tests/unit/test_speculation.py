"""Drafts from the text, which of them run, and what comes of them pass by pass."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.engine.speculation.counts import DraftCounts
from edge_runtime.engine.speculation.cut import rows_served
from edge_runtime.engine.speculation.drafting import MAX_DRAFTS, Drafting
from edge_runtime.engine.speculation.drafts import ORDERS, NgramDrafts
from edge_runtime.engine.speculation.judge import Judge


def text_of(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int32)


def test_a_draft_is_what_followed_the_longest_match_when_it_came_last():
    drafts = NgramDrafts(text_of(1, 2, 3, 4, 50, 51, 52, 53, 1, 2, 3, 4, 60, 61, 3, 4, 70, 71, 9, 1, 2, 3, 4))
    assert drafts.propose(3) == (4, [60, 61, 3])
    drafts.extend([8, 3, 4])
    assert drafts.propose(2) == (2, [8, 3]), "the pair came last right before"
    drafts.extend([99])
    assert drafts.propose(3) is None


def test_a_text_that_goes_in_circles_is_continued():
    assert NgramDrafts(text_of(5, 5, 5)).propose(3) == (2, [5, 5, 5])
    assert NgramDrafts(text_of(7, 1, 2, 7, 1, 2, 7, 1)).propose(5) == (4, [2, 7, 1, 2, 7])


@pytest.mark.parametrize("tokens", [(), (1,), (1, 2), (1, 2, 3, 4)])
def test_short_texts_have_no_draft(tokens):
    assert NgramDrafts(text_of(*tokens)).propose(3) is None


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 60), st.integers(1, 4))
def test_a_text_gives_the_same_draft_at_once_and_token_by_token(tokens, known, most):
    """And what is found did follow such a match: hashes alone decide nothing."""
    whole, grown = NgramDrafts(text_of(*tokens)), NgramDrafts(text_of(*tokens[:known]))
    grown.extend(tokens[known:])
    found = whole.propose(most)
    assert grown.propose(most) == found
    assert len(grown) == len(tokens)
    if found is not None:
        matches = [i for i in range(found.order, len(tokens)) if tokens[i - found.order : i] == tokens[-found.order :]]
        start = matches[-1]
        assert found.token_ids[: len(tokens) - start] == tokens[start : start + most]
        assert len(found.token_ids) == most


def test_memory_of_the_tables_does_not_grow_and_old_matches_give_way():
    rng = np.random.default_rng(1)
    drafts = NgramDrafts(rng.integers(0, 1 << 30, 100_000).astype(np.int32))
    drafts.extend([1, 2, 3, 4, 5, 1, 2, 3, 4])
    assert drafts.propose(1) == (4, [5])


def test_a_draft_runs_as_far_as_its_experts_are_there():
    resident = np.zeros(8, np.bool_)
    resident[[0, 1]] = True
    ids = text_of(5, 6, 0, 1, 5, 0, 0, 7, 0, 1).reshape(5, 2)
    assert rows_served(ids, 1, resident) == 3, "5 is read for the first token anyway; nothing brings 7"
    assert rows_served(ids[:3], 1, resident) == 3
    assert rows_served(ids, 4, resident) == 5, "tokens that were drawn always run"
    assert rows_served(ids[[0, 3, 2]], 1, resident) == 1, "what comes behind a draft that is cut is cut as well"
    assert not resident[5], "what was handed in stays as it is"


REPEATED = [1, 2, 3, 4, 5, 6, 7, 8]


def test_without_a_judge_every_draft_is_proposed_and_counted():
    totals = DraftCounts()
    drafting = Drafting(text_of(*REPEATED, 1, 2, 3), None, totals)
    assert drafting.propose([4], 10) == [5, 6, 7]
    drafting.note(3, 2, [5, 6, 9], 1.0)
    assert drafting.propose([4, 5, 6, 9], 10) == []
    drafting.note(0, 0, [1], 1.0)
    assert drafting.propose([4, 5, 6, 9, 1, 2, 3, 4], 2) == [5, 6]
    drafting.note(2, 2, [8], 1.0)
    assert drafting.counts == totals == DraftCounts(passes=2, drafted=5, cut=1, accepted=2)
    assert drafting.propose([4, 5, 6, 9, 1, 2, 3, 4, 8], 0) == []
    assert len(REPEATED) > MAX_DRAFTS


def test_nothing_is_proposed_while_it_may_not_be():
    allowed = [False]
    drafting = Drafting(text_of(*REPEATED, 1, 2, 3), None, DraftCounts(), lambda: allowed[0])
    assert drafting.propose([4], 10) == []
    allowed[0] = True
    assert drafting.propose([4], 10) == [5, 6, 7]


def decode(drafting: Drafting, text: list[int], seconds: dict[bool, float]) -> list[int]:
    """Draw a text that is given; return how many tokens each pass drafted."""
    written, drafted = text[:1], []
    while len(written) < len(text):
        drafts = drafting.propose(written, 10)
        drawn = [text[len(written)]]
        for draft in drafts:
            if draft != drawn[-1] or len(written) + len(drawn) == len(text):
                break
            drawn.append(text[len(written) + len(drawn)])
        drafting.note(len(drafts), len(drafts), drawn, seconds[len(drafts) > 0])
        written += drawn
        drafted.append(len(drafts))
    return drafted


def test_the_judge_switches_drafts_on_while_they_are_faster():
    judge = Judge()
    fast = Drafting(text_of(*REPEATED), judge, DraftCounts())
    drafted = decode(fast, REPEATED * 30, {True: 1.5, False: 1.0})
    assert judge.gain > 0.3
    assert (max(drafted), judge.switches) == (3, 1)
    assert fast.counts.accepted > 100
    judge = Judge()
    slow = decode(Drafting(text_of(*REPEATED), judge, DraftCounts()), REPEATED * 30, {True: 6.0, False: 1.0})
    assert judge.gain < 0
    assert sum(slow) <= 9, "three passes at most"


def test_a_text_without_matches_is_never_tried():
    judge = Judge()
    assert set(decode(Drafting(text_of(1), judge, DraftCounts()), list(range(100, 160)), {False: 1.0})) == {0}
    assert judge.gain is None


def test_matches_that_are_always_wrong_are_never_tried():
    judge = Judge()
    rng = np.random.default_rng(2)
    text = [token for _ in range(300) for token in (1, 2, int(rng.integers(1000, 9000)))]
    tried = decode(Drafting(text_of(5), judge, DraftCounts()), text, {True: 1.0, False: 1.0})
    assert len(ORDERS) == 2
    assert sum(tried) == 0
