"""The search of `hobbit tune` with measurements made up: what it accepts, what it refuses, where it stops and resumes."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from edge_runtime.lab.tune.accept import Terms, judge
from edge_runtime.lab.tune.candidate import Axis, Candidate, Space, axes
from edge_runtime.lab.tune.journal import Journal
from edge_runtime.lab.tune.measurement import Failure, Measurement
from edge_runtime.lab.tune.predict import Reads
from edge_runtime.lab.tune.rehearsal import Rehearsal
from edge_runtime.lab.tune.search import SearchRules, search
from edge_runtime.lab.tune.trial import SearchOutcome

Speed = Callable[[Mapping[str, Any]], float]


def measurement(rate: float, *, ttft: float = 100.0, p99: float = 50.0, digest: str = "same", kld: float | None = None):
    return Measurement([rate, rate, rate], [ttft], p99, digest, {"trunk": 1000 / rate}, kld=kld)


class FakeLab:
    """A machine whose speed is a function of the options, with noise that comes and goes slowly, as load does.

    Args:
        speed: tokens a second.
        noise: greatest deviation of a round, the same for all measurements of it.
        predicts: what a prediction is; None: nothing is predicted.
        lasts: measurements the time budget has room for.
    """

    def __init__(self, speed: Speed, *, noise: float = 0.0, predicts: Speed | None = None, lasts: int = 10**6) -> None:
        self.speed, self.noise, self.predicts, self.left = speed, noise, predicts, lasts
        self.doubts = 0.0
        self.rehearsed: list[Candidate] = []
        self.tells: Callable[[Candidate], Rehearsal | Failure] = lambda candidate: Rehearsal(Reads(1.0, 1.0), 0.004)
        self.order: list[tuple[str, Candidate, int]] = []
        self.stood: list[tuple[Candidate, float]] = []
        self.changes: Callable[[Candidate, Measurement], Measurement | Failure] = lambda candidate, found: found

    def measure(self, stage: str, candidate: Candidate, number: int, *, lossy: bool) -> Measurement | Failure:
        self.left -= 1
        self.order.append((stage, candidate, number))
        load = 1 + self.noise * random.Random(f"{stage}{number}").uniform(-1, 1)
        kld = 0.004 if lossy and candidate.changes else None
        return self.changes(candidate, measurement(self.speed(candidate.options) * load, kld=kld))

    def rehearse(self, candidate: Candidate) -> Rehearsal | Failure:
        self.left -= 1
        self.rehearsed.append(candidate)
        return self.tells(candidate)

    def predict(self, candidate: Candidate) -> float | None:
        return self.predicts(candidate.options) if self.predicts else None

    def doubt(self, candidate: Candidate) -> float:
        return self.doubts

    def begin_with(self, stands: Candidate, measured: Sequence[Measurement]) -> None:
        self.stood.append((stands, measured[-1].rate))

    def has_time(self, measurements: int) -> bool:
        return self.left >= measurements


THREADS = Axis("threads", ({"threads": 1}, {"threads": 2}, {"threads": 4}))
RULES = Axis("eviction", ({"eviction": "lru"}, {"eviction": "lcu"}))


def by_threads(options: Mapping[str, Any]) -> float:
    return {None: 10.0, 1: 5.0, 2: 10.1, 4: 12.0}[options.get("threads")] * (1.2 if "eviction" in options else 1)


def find(outcome: SearchOutcome, **options: Any):
    return next(trial for trial in outcome.trials if trial.candidate == Candidate.of(options))


def test_the_fastest_of_each_axis_is_kept_and_built_upon():
    outcome = search([THREADS, RULES], FakeLab(by_threads), SearchRules())
    assert outcome.best.options["threads"] == 4
    assert outcome.best.options["eviction"] in ("lru", "lcu")
    assert outcome.final is not None
    assert outcome.final.verdict is not None
    assert outcome.final.verdict.gain == pytest.approx(0.44)
    assert find(outcome, threads=1).why.startswith("given up: -50"), "one round told enough"
    assert len(find(outcome, threads=1).measured) == 1
    assert any("below the 3 %" in reason for reason in find(outcome, threads=2).verdict.reasons)


def test_predictions_begin_with_what_stands_and_was_measured():
    lab = FakeLab(by_threads)
    search([THREADS, RULES], lab, SearchRules())
    four = Candidate.of({"threads": 4})
    assert lab.stood[:3] == [(Candidate(), 10.0), (four, 12.0), (four, 12.0)], "before an axis, and what it brought"
    assert lab.stood[3][0].options.keys() == {"threads", "eviction"}


def test_finalists_are_measured_in_turn_beginning_with_another_each_round():
    lab = FakeLab(lambda options: 10.0)
    search([RULES], lab, SearchRules(rounds=3))
    firsts = [next(c for _, c, n in lab.order if n == number) for number in range(3)]
    assert len(set(firsts)) == 3
    for number in range(3):
        assert len({c for _, c, n in lab.order if n == number}) == 3, "everyone once a round"


@pytest.mark.parametrize("seed", range(8))
def test_load_that_slows_whole_rounds_neither_hides_nor_makes_a_gain(seed):
    """Rounds differ by up to 60 %, far more than any gain: what is measured side by side still tells."""
    gains = {"lru": 1.0, "lcu": 1.06}
    lab = FakeLab(lambda o: 10.0 * gains.get(o.get("eviction"), 1.0) * (1 + seed), noise=0.3)
    outcome = search([RULES], lab, SearchRules())
    assert outcome.best.options == {"eviction": "lcu"}
    assert not search([RULES], FakeLab(lambda o: 10.0, noise=0.3), SearchRules()).best.changes


def test_noise_of_single_measurements_does_not_change_anything():
    draw = random.Random(3)
    for _ in range(40):
        lab = FakeLab(lambda o: 10.0 * draw.uniform(0.97, 1.03))
        assert not search([THREADS, RULES], lab, SearchRules()).best.changes


def test_one_slow_round_does_not_end_a_trial():
    """What is behind in a round is given up only if it is so in the median of its rounds."""
    slow = {"threads": 2}

    class Stumbles(FakeLab):
        def measure(self, stage, candidate, number, *, lossy):
            found = super().measure(stage, candidate, number, lossy=lossy)
            return replace(found, tok_s=[0.7 * found.rate]) if candidate.options == slow and number == 2 else found

    lab = Stumbles(lambda options: 12.0 if options.get("threads") == 2 else 10.0)
    outcome = search([THREADS], lab, SearchRules())
    assert outcome.best.options == slow
    assert len(find(outcome, threads=2).measured) == SearchRules().rounds


def test_what_does_not_hold_in_the_end_is_taken_back():
    lab = FakeLab(by_threads)
    lab.changes = lambda candidate, found: (
        measurement(10.0) if lab.order[-1][0] == "everything together" else found
    )  # the gain was the weather's
    outcome = search([THREADS], lab, SearchRules())
    assert find(outcome, threads=4).verdict.is_accepted
    assert outcome.best == Candidate()
    assert outcome.final is not None
    assert not outcome.final.verdict.is_accepted


def test_hopeless_predictions_are_not_measured_and_unknown_ones_come_first():
    def predicts(options):
        return {None: 10.0, 1: 5.0, 2: 10.5, 4: 11.0}[options.get("threads")]

    lab = FakeLab(by_threads, predicts=predicts)
    outcome = search([THREADS], lab, SearchRules(finalists=2))
    assert find(outcome, threads=1).why == "not measured: -50.0 % (± 0.0) predicted"
    assert {c.options.get("threads") for _, c, _ in lab.order} == {None, 2, 4}
    lab = FakeLab(by_threads, predicts=predicts)
    lab.doubts = 0.95
    search([THREADS], lab, SearchRules(finalists=3))
    assert {c.options.get("threads") for _, c, _ in lab.order} == {None, 1, 2, 4}, "-50 % may be -3 %"
    lab = FakeLab(by_threads, predicts=lambda o: None if o.get("threads") == 1 else predicts(o))
    search([THREADS], lab, SearchRules(finalists=1))
    assert {c.options.get("threads") for stage, c, _ in lab.order if stage == "threads"} == {None, 1}


def test_a_candidate_that_fails_is_out_and_says_why():
    lab = FakeLab(by_threads)
    lab.changes = lambda c, found: Failure("ended by SIGKILL") if c.options.get("threads") == 4 else found
    outcome = search([THREADS], lab, SearchRules())
    assert find(outcome, threads=4).why == "ended by SIGKILL"
    assert outcome.best == Candidate()


def test_when_what_stands_fails_nothing_is_accepted():
    lab = FakeLab(by_threads)
    lab.changes = lambda c, found: found if c.changes else Failure("out of memory")
    outcome = search([THREADS], lab, SearchRules())
    assert outcome.best == Candidate()
    assert "what stands failed" in find(outcome, threads=4).why


def test_the_time_budget_keeps_room_for_the_verification():
    for lasts in range(0, 80, 7):
        lab = FakeLab(by_threads, lasts=lasts)
        outcome = search([THREADS, RULES], lab, SearchRules(rounds=3))
        assert lab.left >= 0, "never more measurements than there is time for"
        assert not outcome.best.changes or outcome.final is not None
        if lasts < 12:
            assert outcome.is_cut_short
            assert not lab.order


def test_a_resumed_search_measures_only_what_is_missing_and_ends_the_same(tmp_path):
    class Journalled(FakeLab):
        def __init__(self, journal, lasts=10**6):
            super().__init__(by_threads, noise=0.1)
            self.journal, self.dies_after = journal, lasts

        def measure(self, stage, candidate, number, *, lossy):
            known = self.journal.get(stage, candidate.key, number)
            if known is not None:
                return known
            if len(self.order) == self.dies_after:
                raise KeyboardInterrupt
            found = super().measure(stage, candidate, number, lossy=lossy)
            self.journal.put(stage, candidate.key, number, found)
            return found

    whole = Journalled(Journal(None, {}))
    expected = search([THREADS, RULES], whole, SearchRules())
    path, about = tmp_path / "x.journal", {"fingerprint": "abc"}
    measured = 0
    for lasts in (5, 9, 1, 10**6):
        lab = Journalled(Journal(path, about), lasts)
        if lasts < 10**6:
            with pytest.raises(KeyboardInterrupt):
                search([THREADS, RULES], lab, SearchRules())
        else:
            assert search([THREADS, RULES], lab, SearchRules()) == expected
        measured += len(lab.order)
    assert measured == len(whole.order)


POLICIES = Axis("tiers and policy", ({"policy": "skip"}, {"policy": "hobbit"}, {"tier": 2}), is_lossy=True)


def lossy(options: Mapping[str, Any]) -> float:
    return {"skip": 30.0, "hobbit": 15.0}.get(options.get("policy"), 20.0 if "tier" in options else 10.0)


def test_what_changes_answers_is_rehearsed_before_it_is_predicted():
    lab = FakeLab(lossy, predicts=lambda o: lossy(o) if not o or Candidate.of(o) in lab.rehearsed else None)
    outcome = search([THREADS, POLICIES], lab, SearchRules(finalists=1, terms=Terms(max_kld=0.05)))
    assert lab.rehearsed == [Candidate.of(each) for each in POLICIES.choices], "each once, and nothing lossless"
    assert find(outcome, policy="skip").rehearsal == Rehearsal(Reads(1.0, 1.0), 0.004)
    assert find(outcome, policy="skip").expected_gain == pytest.approx(2.0)
    assert find(outcome, threads=1).rehearsal is None
    assert outcome.best.options == {"policy": "skip"}


def test_what_loses_too_much_in_a_rehearsal_takes_no_place_of_others():
    lab = FakeLab(lossy, predicts=lossy)
    lab.tells = lambda c: Rehearsal(Reads(1.0, 1.0), 0.159 if c.options.get("policy") == "skip" else 0.05)
    outcome = search([POLICIES], lab, SearchRules(finalists=1, terms=Terms(max_kld=0.05)))
    skip = find(outcome, policy="skip")
    assert not skip.measured
    assert "0.1590 nats a token, above the budget of 0.05" in skip.why
    assert outcome.best.options == {"tier": 2}, "at the budget, and the next fastest"


def test_a_candidate_that_cannot_be_rehearsed_is_out_and_says_why():
    lab = FakeLab(lossy, predicts=lossy)
    lab.tells = lambda c: Failure("ended by SIGKILL") if "tier" in c.options else Rehearsal(Reads(1.0, 1.0), None)
    outcome = search([POLICIES], lab, SearchRules(terms=Terms(max_kld=0.05)))
    assert find(outcome, tier=2).why == "ended by SIGKILL"
    assert not find(outcome, tier=2).measured


def test_rehearsals_keep_room_for_measurements():
    for lasts in range(12, 30):
        lab = FakeLab(lossy, predicts=lossy, lasts=lasts)
        outcome = search([POLICIES], lab, SearchRules(rounds=3, finalists=1, terms=Terms(max_kld=0.05)))
        assert lab.left >= 0
        assert len(lab.rehearsed) == min(3, lasts - 12)
        assert outcome.is_cut_short == (lasts < 15)
        assert bool(outcome.best.changes) == (lasts > 12), "one was rehearsed, and there was time to measure it"


def rounds(*rates: float, **other: Any) -> list[Measurement]:
    return [measurement(rate, **other) for rate in rates]


def test_terms_of_acceptance():
    before = rounds(10, 10, 10)
    assert judge(before, rounds(10.3, 10.4, 10.31), Terms()).is_accepted
    assert not judge(before, rounds(10.2, 10.2, 10.2), Terms()).is_accepted
    assert judge(before, rounds(11, 11, 9), Terms()).is_accepted, "one round of three may go the other way"
    lost = judge(rounds(*[10] * 5), rounds(11, 11, 11, 9, 9), Terms())
    assert lost.gain == pytest.approx(0.1)
    assert any("not in 2 of 5" in reason for reason in lost.reasons)


@pytest.mark.parametrize(("other", "word"), [({"ttft": 121.0}, "first token"), ({"p99": 61.0}, "99th percentile")])
def test_a_gain_that_costs_latency_is_refused(other, word):
    found = judge(rounds(10, 10, 10), rounds(12, 12, 12, **other), Terms())
    assert any(word in reason for reason in found.reasons)
    nearly = {name: value / 1.02 for name, value in other.items()}
    assert judge(rounds(10, 10, 10), rounds(12, 12, 12, **nearly), Terms()).is_accepted


def test_lossless_means_byte_by_byte():
    other = [measurement(12), measurement(12, digest="another"), measurement(12)]
    assert any("byte by byte" in r for r in judge(rounds(10, 10, 10), other, Terms()).reasons)


def test_a_lossy_candidate_is_held_to_its_budget():
    before, terms = rounds(10, 10, 10), Terms(max_kld=0.01)
    fast = [replace(one, digest="other") for one in rounds(12, 12, 12, kld=0.009)]
    assert judge(before, fast, terms).is_accepted
    assert any("above the budget" in r for r in judge(before, [replace(o, kld=0.011) for o in fast], terms).reasons)
    assert any("not measured" in r for r in judge(before, [replace(o, kld=None) for o in fast], terms).reasons)


def test_axes_leave_what_the_user_stated_and_what_makes_no_difference():
    space = Space(4, 1 << 20, 100, 8, eviction=["lru"], prefetch=["off"], read_chunks=[1 << 20], io_threads=[8])
    names = [axis.name for axis in axes(space)]
    assert names == ["reads", "page cache", "eviction", "cache size", "look-ahead", "overlap", "threads"]
    assert [a.name for a in axes(space, {"io_threads": 4, "eviction": "lcu"})] == names[1:2] + names[3:]
    assert [a.name for a in axes(replace(space, fits_all=True))] == ["threads"]
    sizes = next(a for a in axes(space) if a.name == "cache size").choices
    assert [c["expert_memory"] >> 20 for c in sizes] == [85, 70, 55]
    lossy = axes(replace(space, policies=["hobbit"], tiers=[4]))[-1]
    assert lossy.is_lossy
    assert lossy.choices == ({"policy": "hobbit"}, {"tier": 4})


def test_an_alternative_that_is_what_stands_is_no_candidate():
    axis = Axis("overlap", ({"overlap": False}, {"overlap": None}))
    assert axis.around(Candidate()) == [Candidate.of({"overlap": False})]
    assert axis.around(Candidate.of({"overlap": False})) == [Candidate()]
