"""How many drafts are checked: from planted prices and acceptance, and what that loses or gains altogether."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edge_runtime.engine.speculation.drafting import MAX_DRAFTS
from edge_runtime.engine.speculation.judge import LOSS_PASSES, LOSS_SHARE, Judge
from edge_runtime.engine.speculation.odds import Odds


def test_odds_follow_what_came_whether_it_was_checked_or_not():
    odds = Odds((4, 2))
    assert odds.first(4) < 0.4, "nothing is checked before something was right"
    odds.note(4, is_first=True, is_right=True)
    assert odds.first(4) > 0.5, "the first ones count most"
    for _ in range(40):
        odds.note(4, is_first=True, is_right=True)
        odds.note(2, is_first=True, is_right=False)
    assert 0 < odds.first(2) < 0.1 < 0.85 < odds.first(4) < 1


def test_later_tokens_have_odds_of_their_own_once_they_are_known():
    odds = Odds((2,))
    for number in range(40):
        odds.note(2, is_first=True, is_right=number % 2 == 0)
    assert odds.later(2) == odds.first(2) == pytest.approx(0.5, abs=0.1)
    for _ in range(40):
        odds.note(2, is_first=False, is_right=True)
    assert odds.later(2) > 0.9
    judge = measured(0.45)
    assert judge.choose(0.7, 0.7, 3) == 1
    assert judge.choose(0.7, 0.97, 3) == 3


def measured(row: float, runs: float = 1.0, passes: int = 20) -> Judge:
    """A judge that has seen passes at a planted price of a row, of which that share runs to the end."""
    judge, owed = Judge(), 0.0
    for _ in range(5):
        judge.note(1.0, 0, 0, 1)
    for _ in range(passes):
        owed += runs
        ran, owed = int(owed), owed % 1
        judge.note(1.0 + row, 1, ran, 2)
    judge.note(1.0, 0, 0, 1)
    return judge


def test_as_many_drafts_are_checked_as_bring_most_for_their_time():
    assert [measured(0.3).choose(chance, chance, 3) for chance in (0.2, 0.3, 0.4, 0.6, 0.9)] == [0, 0, 1, 1, 3]
    assert [measured(0.9).choose(chance, chance, 3) for chance in (0.4, 0.6, 0.8, 0.99)] == [0, 0, 0, 3]
    assert [measured(0.05).choose(chance, chance, 3) for chance in (0.03, 0.2, 0.6)] == [0, 1, 3]
    assert measured(0.3).choose(0.9, 0.9, 2) == 2


def test_drafts_that_are_cut_count_as_wrong():
    assert measured(0.3, runs=0.25).choose(0.9, 0.9, 3) == 0
    assert measured(0.02, runs=0.25).choose(0.9, 0.9, 3) > 0, "where experts are read, a row that is cut costs little"


def test_nothing_is_checked_before_it_is_known_what_a_pass_takes():
    judge = Judge()
    for _ in range(3):
        assert judge.choose(0.9, 0.9, 3) == 0
        judge.note(1.0, 0, 0, 1)
    assert judge.choose(0.9, 0.9, 3) == 3
    judge.forget()
    assert judge.choose(0.9, 0.9, 3) == 0


def test_a_gain_below_the_margin_does_not_switch_on_but_keeps_what_is_on():
    judge = measured(0.5)
    row = 0.5
    assert judge.choose(row + 0.01, row + 0.01, 1) == 0, "1 % is noise"
    assert judge.choose(row + 0.2, row + 0.2, 1) == 1
    assert judge.choose(row + 0.01, row + 0.01, 1) == 1, "as long as it is no loss"
    assert judge.switches == 1
    assert judge.choose(row - 0.01, row - 0.01, 1) == 0
    assert (judge.switches, judge.is_on) == (2, False)


def test_what_passes_are_compared_with_stays_known_while_drafts_pay():
    judge = measured(0.3, passes=0)
    asked = []
    for _ in range(60):
        asked.append(judge.choose(0.9, 0.9, 3))
        judge.note(1.9 if asked[-1] else 1.0, asked[-1], asked[-1], 1 + asked[-1])
    assert 5 <= asked.count(0) <= 7
    assert judge.switches == 1, "one pass to compare with is no change of mind"
    assert judge.gain == pytest.approx(1 - 1.9 / 4)


def test_passes_that_took_very_long_decide_nothing():
    judge = measured(0.3)
    for _ in range(2):
        judge.note(500.0, 0, 0, 1)
        assert judge.choose(0.9, 0.9, 3) == 3
        judge.note(500.0, 3, 3, 4)
    assert judge.choose(0.9, 0.9, 3) == 3


def test_a_price_that_was_too_high_once_is_believed_less_and_less():
    judge = measured(1.5)
    for _ in range(1300):
        judge.earn()
    assert judge.choose(0.85, 0.85, 3) == 0
    for _ in range(200):
        judge.note(1.0, 0, 0, 1)
    assert judge.choose(0.85, 0.85, 3) > 0


def test_passes_that_take_no_time_say_nothing():
    judge = Judge()
    for _ in range(50):
        drafted = judge.choose(0.9, 0.9, 3)
        assert drafted == 0
        judge.note(0.0, drafted, drafted, 1)
    assert judge.gain is None


class Machine:
    """Decodes texts of planted acceptance at planted prices; seconds a token of a pass without drafts are 1.

    Args:
        judge: asked for each draft; None: all of it is checked.
        row: what a row adds to a pass.
        runs: chance that a row is not cut.
        seed: of the texts.
    """

    def __init__(self, judge: Judge | None, row: float, runs: float = 1.0, seed: int = 0) -> None:
        self.judge, self.row, self.runs = judge, row, runs
        self.rng = np.random.default_rng(seed)

    def seconds_a_token(self, tokens: int, chance: Callable[[int], float], found: float = 0.5) -> float:
        """Decode a text: a draft is found for such a share of passes, and right by `chance(tokens so far)`."""
        odds, given, seconds = Odds((2,)), 0, 0.0
        while given < tokens:
            taken, took = 1, 1.0
            if self.judge is not None:
                self.judge.earn()
            if self.rng.random() < found:
                right = self._in_a_row(chance(given), MAX_DRAFTS)
                drafted = (
                    MAX_DRAFTS if self.judge is None else self.judge.choose(odds.first(2), odds.later(2), MAX_DRAFTS)
                )
                ran = self._in_a_row(self.runs, drafted)
                taken, took = 1 + min(ran, right), 1 + self.row * drafted
                for number in range(min(taken, MAX_DRAFTS)):
                    odds.note(2, is_first=number == 0, is_right=number < right)
                if self.judge is not None:
                    self.judge.note(took, drafted, ran, taken)
            given, seconds = given + taken, seconds + took
        return seconds / given

    def _in_a_row(self, chance: float, most: int) -> int:
        count = 0
        while count < most and self.rng.random() < chance:
            count += 1
        return count


@pytest.mark.parametrize("tokens", [96, 160, 1000])
@pytest.mark.parametrize("row", [0.3, 0.5, 0.85, 1.2])
@pytest.mark.parametrize("chance", [0.05, 0.15, 0.25])
def test_a_text_without_repetitions_loses_less_than_a_percent(tokens, row, chance):
    texts = [Machine(Judge(), row, seed=seed).seconds_a_token(tokens, lambda _: chance) for seed in range(40)]
    assert np.mean(texts) < 1.005
    assert max(texts) < 1 + LOSS_SHARE + (LOSS_PASSES + MAX_DRAFTS * row) / tokens, "what the account allows"


@pytest.mark.parametrize("row", [0.5, 1.2, 2.5])
@pytest.mark.parametrize("period", [5, 20, 60])
def test_a_text_made_to_mislead_loses_no_more_than_the_account_allows(row, period):
    """Drafts are right until they are checked, and wrong then, again and again."""
    tokens = 1500
    bound = LOSS_SHARE * tokens + LOSS_PASSES + MAX_DRAFTS * row
    for seed in range(10):
        judge = Judge()

        def chance(given: int, judge: Judge = judge) -> float:
            return 0.0 if judge.is_on or given % period > period // 2 else 1.0

        lost = tokens * (Machine(judge, row, seed=seed).seconds_a_token(tokens, chance, found=0.9) - 1)
        assert lost < bound


@pytest.mark.parametrize("chance", [0.6, 0.75, 0.9])
@pytest.mark.parametrize("row", [0.25, 0.35, 0.5])
def test_texts_that_repeat_themselves_keep_most_of_what_drafts_save(chance, row):
    def mean(judge: Callable[[], Judge | None]) -> float:
        return float(np.mean([
            Machine(judge(), row, seed=seed).seconds_a_token(160, lambda _: chance, found=0.9) for seed in range(40)
        ]))  # fmt: skip

    every, judged = mean(lambda: None), mean(Judge)
    assert judged < 1.0
    assert judged < 1.09 * every, "and where every draft costs more than it saves, more than that"


def test_a_good_run_is_not_ended_by_two_bad_passes_but_another_text_begins_with_little_to_lose():
    judge = measured(0.4, passes=0)
    for _ in range(12):
        judge.note(2.2, 3, 3, 4)
    judge.note(1.0, 0, 0, 1)
    for _ in range(2):
        judge.note(2.2, 3, 3, 1)
        assert judge.choose(0.9, 0.9, 3) == 3
    judge.new_text()
    for _ in range(2):
        judge.note(2.2, 3, 3, 1)
    assert judge.choose(0.9, 0.9, 3) == 0


def test_a_price_measured_for_one_text_is_known_to_the_next():
    judge = Judge()
    dear = Machine(judge, 1.2)
    dear.seconds_a_token(400, lambda _: 0.7, found=0.9)
    before = judge.gain
    assert before < 0
    lost = dear.seconds_a_token(400, lambda _: 0.7, found=0.9) - 1
    assert lost < 0.015


def test_what_else_the_machine_does_hides_little():
    """One pass in twenty takes three to ten times as long, whatever it did."""

    class Busy(Judge):
        noise = np.random.default_rng(5)

        def note(self, seconds: float, drafted: int, ran: int, tokens: int) -> None:
            late = self.noise.uniform(3, 10) if self.noise.random() < 0.05 else 1.0
            super().note(seconds * late, drafted, ran, tokens)

    def mean(kind: type[Judge], chance: float, row: float) -> float:
        runs = [Machine(kind(), row, seed=seed).seconds_a_token(240, lambda _: chance, 0.9) for seed in range(40)]
        return float(np.mean(runs))

    assert 1 - mean(Busy, 0.9, 0.3) > 0.8 * (1 - mean(Judge, 0.9, 0.3)), "of what drafts save"
    assert mean(Busy, 0.2, 0.8) < 1.01
