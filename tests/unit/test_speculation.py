"""Drafts from the text, which of them run, and whether they pay: pure decisions, timings planted."""

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
from edge_runtime.engine.speculation.odds import Odds


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


def test_odds_follow_what_came_and_say_how_much_is_worth_a_row():
    odds = Odds((4, 2))
    assert odds.worth(4, 3) == 1, "one is tried before anything is known"
    for _ in range(40):
        odds.note(4, is_right=True)
        odds.note(2, is_right=False)
    assert odds.worth(4, 3) == 3
    assert odds.worth(4, 2) == 2
    assert odds.worth(2, 3) == 0
    assert 0 < odds.chance(2) < 0.1 < 0.9 < odds.chance(4) < 1


class Machine:
    """Passes of planted length: `plain` seconds, or `drafted` seconds for `tokens` tokens."""

    def __init__(self, judge: Judge, plain: float, drafted: float, tokens: float) -> None:
        self.judge, self.plain, self.drafted, self.tokens = judge, plain, drafted, tokens
        self.seconds = self.given = 0.0
        self.on: list[bool] = []
        self._owed = 0.0

    def run(self, passes: int) -> list[bool]:
        """Run passes; return in which of them there were drafts."""
        ran = []
        for _ in range(passes):
            ran.append(self.judge.is_on)
            seconds, tokens = (self.drafted, self.tokens) if self.judge.is_on else (self.plain, 1.0)
            self._owed += tokens
            whole, self._owed = int(self._owed), self._owed % 1
            self.seconds, self.given = self.seconds + seconds, self.given + whole
            self.judge.note(seconds, max(whole, 1))
        self.on += ran
        return ran


def test_drafts_stay_on_where_they_pay_and_off_where_they_do_not():
    pays = Machine(Judge(), plain=1.0, drafted=1.4, tokens=2.0)
    pays.run(400)
    assert pays.judge.gain == pytest.approx(0.3)
    assert sum(pays.on[-200:]) > 150
    loses = Machine(Judge(), plain=1.0, drafted=1.4, tokens=1.0)
    loses.run(400)
    assert loses.judge.gain == pytest.approx(-0.4)
    assert sum(loses.on[-200:]) < 15


def test_what_is_lost_where_drafts_do_not_pay_is_bounded_and_becomes_rare():
    loses = Machine(Judge(), plain=1.0, drafted=1.5, tokens=1.0)
    loses.run(2000)
    assert sum(loses.on[:50]) == 4, "one trial, which ends as soon as it is sure"
    assert sum(loses.on[1000:]) <= 8, "trials are further and further apart"
    assert loses.seconds / loses.given < 1.01


def test_a_loss_that_could_be_chance_is_looked_at_for_a_whole_window():
    judge, passes = Judge(), 0
    for took in (1.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0) + (1.0, 1.0) * 8:
        assert judge.gain is None
        judge.note(took, 2 if judge.is_on else 1)
        passes += 1
    assert (passes, judge.is_on) == (24, True), "one slow pass with a draft, and all others pay"


def test_a_gain_below_the_margin_does_not_switch_on_but_keeps_what_is_on():
    machine = Machine(Judge(), plain=1.0, drafted=1.97, tokens=2.0)
    machine.run(30)
    assert not machine.judge.is_on, "1.5 % is noise"
    other = Machine(Judge(), plain=1.0, drafted=1.5, tokens=2.0)
    other.run(30)
    assert other.judge.is_on
    other.drafted = 1.97
    other.run(500)
    assert other.judge.switches == 1, "as long as it is no loss"
    other.drafted = 2.2
    other.run(900)
    assert other.judge.switches == 2
    assert not other.judge.is_on


def test_one_pass_that_took_very_long_decides_nothing():
    judge = Judge()
    number = 0
    while judge.gain is None:
        on = judge.is_on
        judge.note(500.0 if number == 3 else 1.4 if on else 1.0, 2 if on else 1)
        number += 1
    assert judge.is_on
    assert 24 < number < 48, "it only takes longer"


def test_a_trial_is_longer_the_more_other_work_hides_and_has_an_end():
    lengths = []
    for spread in (0.0, 0.2, 3.0):
        rng, judge, passes = np.random.default_rng(7), Judge(), 0
        while judge.gain is None:
            judge.note((1.1 if judge.is_on else 1.0) + spread * float(rng.random()), 1)
            passes += 1
        lengths.append(passes)
    assert lengths[0] == 8 <= lengths[1] <= lengths[2] == 96


def test_both_ways_of_a_trial_take_turns():
    machine = Machine(Judge(), plain=1.0, drafted=1.0, tokens=1.0)
    assert machine.run(8) == [False, True] * 4


def test_another_text_is_tried_sooner_and_other_memory_at_once():
    machine = Machine(Judge(), plain=1.0, drafted=1.4, tokens=1.0)
    machine.run(3000)
    machine.tokens = 2.0
    machine.judge.new_text()
    machine.run(48 + 24)
    assert machine.judge.is_on
    machine.judge.forget()
    assert (machine.judge.is_on, machine.judge.gain) == (False, None)
    assert sum(machine.run(4)) == 2


def test_passes_that_take_no_time_say_nothing():
    machine = Machine(Judge(), plain=0.0, drafted=0.0, tokens=1.0)
    machine.run(50)
    assert machine.judge.gain == 0


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
    judge = Judge(window=4)
    fast = Drafting(text_of(*REPEATED), judge, DraftCounts())
    drafted = decode(fast, REPEATED * 30, {True: 1.5, False: 1.0})
    assert judge.gain > 0.3
    assert (max(drafted), judge.switches) == (3, 1)
    assert fast.counts.accepted > 100
    judge = Judge(window=4)
    slow = decode(Drafting(text_of(*REPEATED), judge, DraftCounts()), REPEATED * 30, {True: 5.0, False: 1.0})
    assert judge.gain < 0
    assert sum(slow[30:]) < 40


def test_a_text_without_matches_is_never_tried():
    judge = Judge(window=1)
    assert set(decode(Drafting(text_of(1), judge, DraftCounts()), list(range(100, 160)), {False: 1.0})) == {0}
    assert judge.gain is None


def test_matches_that_are_always_wrong_stop_being_tried():
    judge = Judge(window=1000)
    rng = np.random.default_rng(2)
    text = [token for _ in range(300) for token in (1, 2, int(rng.integers(1000, 9000)))]
    tried = decode(Drafting(text_of(5), judge, DraftCounts()), text, {True: 1.0, False: 1.0})
    behind_pairs = tried[300:]
    assert sum(tried[:60]) > 0
    assert len(ORDERS) == 2
    assert sum(behind_pairs) < 20
