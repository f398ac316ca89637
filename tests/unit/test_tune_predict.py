"""Predictions of `hobbit tune`: what they rest on, what cannot be predicted, and how far they may be off."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_runtime.bundle.bundle import Bundle
from edge_runtime.lab.tune.candidate import Candidate
from edge_runtime.lab.tune.doubt import doubt
from edge_runtime.lab.tune.measurement import Failure, Measurement, typical
from edge_runtime.lab.tune.predict import RatePredictor, Reads
from edge_runtime.lab.tune.read_times import Line, ReadTimes, measure
from edge_runtime.lab.tune.speeds import ComputeSpeed, ComputeSpeeds, probe

MIB = 1 << 20
PRESENT = {
    "read_chunk": MIB, "io_threads": 8, "direct_io": True, "threads": 4, "tier": 8, "eviction": "lru",
    "policy": "lossless", "num_slots": 100,
}  # fmt: skip
PHASES = {"trunk": 20.0, "experts": 30.0, "read_wait": 40.0, "other": 10.0}
MEASURED = Measurement([10.0], [1.0], 1.0, "x", PHASES, read_busy_ms=40.0)
SPEEDS = ComputeSpeeds(
    {
        (4, 8): ComputeSpeed(18.0, 24.0, 8.0),
        (2, 8): ComputeSpeed(27.0, 48.0, 8.0),
        (4, 4): ComputeSpeed(18.0, 12.0, 8.0),
    }
)
"""With every expert in memory a token takes 50 ms of the 100 that are measured."""


def predictor(**other) -> RatePredictor:
    """A cache that reads less the larger it is; a drive of 1 GB/s and 0.1 ms, of half that rate in smaller chunks.

    A token uses 40 experts.
    """

    def replay(setting):
        size = 4e6 * 100 / setting.num_slots * (0.5 if setting.eviction == "next-use" else 1)
        return Reads(size, 10, {8: 30.0, 4: 10.0} if setting.policy == "hobbit" else {setting.tier: 40.0})

    drive = ReadTimes({(MIB, 8): Line(0.1, 1e-6), (MIB // 2, 8): Line(0.1, 2e-6)})
    fields = {"measured": MEASURED, "replay": replay, "drive": drive, "speeds": SPEEDS} | other
    return RatePredictor(PRESENT, {8: MIB, 4: MIB // 2}, 40, **fields)


def rate(found: RatePredictor, **options) -> float | None:
    return found.rate(Candidate.of(options))


def test_predictions_scale_what_reading_costs_as_the_model_does():
    found = predictor()
    assert rate(found) == pytest.approx(10.0), "nothing changed: what was measured"
    # the model: 4 MB at 1 GB/s and 10 batches of 0.1 ms, 5 ms; half the bytes: 3 ms
    assert rate(found, eviction="next-use") == pytest.approx(1000 / (50 + 50 * 3 / 5))
    assert rate(found, read_chunk=MIB // 2) == pytest.approx(1000 / (50 + 50 * 9 / 5))
    assert rate(found, expert_memory=50 * MIB) == pytest.approx(1000 / (50 + 50 * 9 / 5))
    assert rate(found, tier=4) == pytest.approx(1000 / (38 + 50 * 3 / 5)), "twice as many fit, computed twice as fast"


def test_what_reads_nothing_takes_what_computing_takes():
    """Computing that was slower because of reads beside it is so no more."""

    def replay(setting):
        return Reads(0.0 if setting.tier == 4 else 4e6, 0 if setting.tier == 4 else 10, {setting.tier: 40.0})

    assert rate(predictor(replay=replay), tier=4) == pytest.approx(1000 / 38)
    assert rate(predictor(replay=None, drive=None), threads=2) == pytest.approx(1000 / (83 + 50))
    only = ComputeSpeeds({(4, 8): ComputeSpeed(18.0, 24.0), (4, 4): ComputeSpeed(18.0, 12.0)})
    assert rate(predictor(replay=replay, speeds=only), tier=4) == pytest.approx(1000 / (18 + 12 + 10)), "as measured"


def test_a_machine_that_was_slower_while_it_was_probed_makes_no_reads_that_give_time_back():
    slow = ComputeSpeeds({(4, 8): ComputeSpeed(60.0, 120.0, 20.0), (4, 4): ComputeSpeed(60.0, 60.0, 20.0)})
    found = predictor(speeds=slow)
    assert rate(found) == pytest.approx(10.0)
    assert rate(found, tier=4) == pytest.approx(1000 / (60 * 140 / 200 + 40 * 3 / 5)), "what was waited for is reads"


def test_what_computing_takes_is_timed_in_the_process_that_is_measured():
    """Probes ran on a machine that was half as fast: only what they say of one setting by another counts."""
    resident = {"trunk": 15.0, "experts": 20.0, "other": 5.0}
    measured = replace(MEASURED, resident_ms=resident)
    assert measured.resident_token_ms == 40.0
    slow = SPEEDS.slower(dict.fromkeys(SPEEDS.pairs, 2.0))
    found = predictor(measured=measured, speeds=slow)
    assert rate(found) == pytest.approx(10.0)
    assert rate(found, eviction="next-use") == pytest.approx(1000 / (40 + 60 * 3 / 5))
    assert rate(found, threads=2) == pytest.approx(1000 / (40 * 83 / 50 + 60))
    assert rate(found, tier=4) == pytest.approx(1000 / (40 * 38 / 50 + 60 * 3 / 5))
    assert rate(found, tier=4) == rate(predictor(measured=measured), tier=4)
    unknown = predictor(measured=measured, speeds=ComputeSpeeds({}))
    assert rate(unknown, eviction="next-use") == pytest.approx(1000 / (40 + 60 * 3 / 5)), "nothing else is needed"
    assert rate(unknown, tier=4) is None
    most = predictor(measured=replace(MEASURED, resident_ms={"trunk": 70.0}))
    assert rate(most, eviction="next-use") == pytest.approx(1000 / (60 + 40 * 3 / 5)), "what was waited for is reads"


def test_what_stands_takes_the_median_of_each_phase():
    rounds = [
        replace(MEASURED, tok_s=[rate], phase_ms={"trunk": trunk, "read_wait": 40.0}, resident_ms={"trunk": resident})
        for rate, trunk, resident in ((10.0, 20.0, 30.0), (11.0, 19.0, 15.0), (9.0, 25.0, 16.0))
    ]
    found = typical(rounds)
    assert (found.tok_s, found.phase_ms) == ([10.0], {"trunk": 20.0, "read_wait": 40.0})
    assert found.resident_ms == {"trunk": 16.0}, "not that of the middle round, which was slow behind its requests"
    assert typical([MEASURED]) == MEASURED
    assert typical([replace(rounds[0], resident_ms=None), rounds[1]]).resident_ms == {"trunk": 15.0}


def test_what_computing_hides_of_reading_stays_hidden_whatever_the_drive():
    """The drive was busy for 100 ms of which 50 were computed through."""
    found = predictor(measured=Measurement([10.0], [1.0], 1.0, "x", PHASES, read_busy_ms=100.0))
    assert rate(found) == pytest.approx(10.0)
    assert rate(found, read_chunk=MIB // 2) == pytest.approx(1000 / (50 + 50 + 100 * 4 / 5)), (
        "80 ms more, all waited for"
    )
    assert rate(found, eviction="next-use") == pytest.approx(1000 / (50 + 50 * 3 / 5)), "fewer reads, alike"
    slow = predictor(measured=found.measured)
    slow.begin_with(Candidate.of({"read_chunk": MIB // 2}), found.measured)
    assert rate(slow) == pytest.approx(1000 / (50 + 50 - 100 * 4 / 9)), "at nearly twice the rate most of it is hidden"


def test_computing_is_predicted_by_probed_speeds_and_nothing_is_made_up():
    found = predictor()
    assert rate(found, threads=2) == pytest.approx(1000 / (27 + 48 + 8 + 50))
    assert rate(found, threads=3) is None, "not probed"
    assert rate(found, prefetch="off") is None
    assert rate(found, overlap=False) is None
    assert rate(found, direct_io=False) is None, "what others leave for pages is not known"
    assert rate(predictor(drive=None), eviction="next-use") is None
    assert rate(found, io_threads=16) is None, "not probed"
    assert rate(found, policy="hobbit") == pytest.approx(1000 / (26 + 24 * (30 + 10 / 2) / 40 + 50))
    assert rate(found, policy="hobbit", threads=2) == pytest.approx(1000 / (35 + 48 * (30 + 10 / 2) / 40 + 50)), (
        "both, though only each was probed"
    )
    assert rate(predictor(speeds=ComputeSpeeds({})), policy="hobbit") is None


def test_predictions_begin_with_what_stands():
    """What cannot be predicted does not hinder once it is on both sides."""
    found, measured = predictor(), Measurement([20.0], [1.0], 1.0, "x", {"trunk": 20.0, "read_wait": 30.0})
    found.begin_with(Candidate.of({"prefetch": "off"}), measured)
    assert rate(found, prefetch="off") == pytest.approx(20.0)
    assert rate(found, prefetch="off", eviction="next-use") == pytest.approx(1000 / (20 + 30 * 3 / 5))
    assert rate(found, eviction="next-use") is None


def test_times_of_reads_are_a_part_for_each_batch_and_one_for_each_byte():
    found = ReadTimes.of_samples(
        [[MIB, 8, [[1000, [2.0, 1.5, 9.0]], [4000, [5.0, 5.0, 1.0]]]], [MIB, 4, [[1000, [3.0]], [4000, [3.0]]]]]
    )
    assert found.read_ms(1000, 1, {"read_chunk": MIB, "io_threads": 8}) == pytest.approx(2.0)
    assert found.read_ms(4000, 1, {"read_chunk": MIB, "io_threads": 8}) == pytest.approx(5.0)
    assert found.read_ms(4000, 4, {"read_chunk": MIB, "io_threads": 8}) == pytest.approx(8.0), "one after another"
    assert found.read_ms(1000, 1, {"read_chunk": MIB, "io_threads": 2}) is None
    assert found.read_ms(4000, 1, {"read_chunk": MIB, "io_threads": 4}) == pytest.approx(4 * 1.875), "no slope"
    assert Line.through([(1, 1.0), (4, 8.0)]) == Line(0.0, 1.5), "a batch never takes less than nothing"
    assert Line.through([(1, 3.0), (2, 4.0), (4, 6.0), (8, 99.0)]).batch_ms == pytest.approx(2.0, abs=0.5)


def test_reads_are_timed_through_the_runtimes_own_reader(model_bundle):
    bundle = Bundle.open(model_bundle)
    (found,) = measure(bundle, 4, [(64 << 10, 2)])
    read_chunk, depth, batches = found
    layout = bundle.manifest.layout
    assert (read_chunk, depth) == (64 << 10, 2)
    assert [size for size, _ in batches] == [*(n * layout.tier_bytes(4) for n in (1, 2, 4)), layout.tier_bytes(2)]
    assert [len(times) for _, times in batches] == [15] * 4
    assert min(min(times) for _, times in batches) > 0


def test_speeds_are_probed_and_one_that_fails_is_left_out():
    asked = []

    def job(candidate):
        asked.append((candidate.options["threads"], candidate.options["tier"]))
        if asked[-1] == (1, 8):
            return Failure("killed")
        return {"trunk_ms": 2.0 + (asked.count((4, 8)) != 2), "experts_ms": 1.0, "other_ms": 0.5}

    found = probe(job, [(4, 8), (1, 8)])
    assert asked == [(4, 8), (1, 8)] * 3, "in turn"
    (shown,) = found.to_json()
    assert shown == {
        "threads": 4, "tier": 8, "trunk_ms": 2.0, "experts_ms": 1.0, "other_ms": 0.5, "rounds_token_ms": [4.5, 3.5, 4.5],
    }  # fmt: skip
    assert found.of(1, 8) is None
    assert found.of(4, 8) == ComputeSpeed(2.0, 1.0, 0.5), "the fastest"
    assert found.doubt((4, 8)) == pytest.approx(1 / 3.5), "its median round took so much longer"


def test_other_answers_are_predicted_by_their_rehearsal_alone():
    """What a trace of other answers says of them is no prediction."""

    def replay(setting):
        return Reads(4e6, 10, {8: 40.0}) if (setting.policy, setting.tier) == ("lossless", 8) else None

    found = predictor(replay=replay)
    assert rate(found, eviction="next-use") == pytest.approx(10.0)
    assert [rate(found, policy="skip"), rate(found, tier=4)] == [None, None]
    assert doubt(found, Candidate.of({"policy": "skip"}), 0.1) is None
    skip = Candidate.of({"policy": "skip"})
    found.know(skip, Reads(2e6, 10, {8: 20.0}))
    assert found.rate(skip) == pytest.approx(1000 / (26 + 12 + 50 * 3 / 5))
    assert doubt(found, skip, 0.1) > 0
    assert rate(found, policy="skip", expert_memory=50 * MIB) is None, "a smaller cache was not rehearsed"
    assert rate(found, policy="lexi") is None
    found.begin_with(skip, MEASURED)
    assert found.rate(skip) == pytest.approx(10.0)


def test_what_reads_behind_the_computing_is_not_predicted():
    found = predictor()
    assert rate(found, policy="rate-distortion:max_kld=0.02,base=true") is None
    assert rate(found, policy="rate-distortion:max_kld=0.02") is not None
    found.begin_with(Candidate.of({"policy": "rate-distortion:base=true"}), MEASURED)
    assert rate(found, policy="rate-distortion:base=true", eviction="next-use") is None
    assert rate(found, policy="rate-distortion:base=true", threads=2) is not None


def doubted(rounds: float = 0.0, *, speeds: ComputeSpeeds = SPEEDS, line: float = 0.0, **options) -> float | None:
    drive = ReadTimes({(MIB, 8): Line(0.1, 1e-6, line), (MIB // 2, 8): Line(0.1, 2e-6, line)})
    return doubt(predictor(speeds=speeds, drive=drive), Candidate.of(options), rounds)


def test_a_prediction_is_as_doubtful_as_its_probes():
    """Of 100 ms 50 are computing; half of the experts would take 38 ms, and reading 30 ms of the other 50."""
    known = {pair: SPEEDS.of(*pair) for pair in SPEEDS.pairs}
    rounds = {pair: [speed.token_ms * factor for factor in (1.0, 1.1, 3.0)] for pair, speed in known.items()}
    unsure = ComputeSpeeds(known, rounds)
    assert doubted(tier=4) == 0.0, "rounds that agree"
    assert doubted(speeds=unsure) == pytest.approx(0.0), "nothing changes, so nothing can be wrong"
    assert doubted(prefetch="off", speeds=unsure) is None
    one = 68 / (38 * 1.1 + 30) - 1  # the tier alone was probed too fast
    own = 68 / (38 + 45 * 3 / 5) - 1  # and what stands, which leaves less to reading
    both = 68 / (38 / 1.1 + (100 - 50 / 1.1) * 3 / 5) - 1
    assert doubted(tier=4, speeds=unsure) == pytest.approx((one**2 + own**2 + both**2) ** 0.5)
    assert doubted(tier=4, speeds=unsure) > doubted(eviction="next-use", speeds=unsure), "computing stays the same"


def test_what_computing_hides_is_doubted_where_computing_changes():
    """The drive was busy for 100 ms, 60 of them hidden by computing: half of the computing may hide half as much."""
    measured = Measurement([10.0], [1.0], 1.0, "x", PHASES, read_busy_ms=100.0)
    found = predictor(measured=measured)
    assert doubt(found, Candidate.of({"eviction": "next-use"})) == 0.0, "computing stays the same"
    less = (38 + 30) / (38 + 30 + 60 * 3 / 5 * (1 - 38 / 50)) - 1
    assert doubt(found, Candidate.of({"tier": 4})) == pytest.approx(-less)
    more = (83 + 50) / (83 + 50 - 60 * (83 / 50 - 1)) - 1
    assert doubt(found, Candidate.of({"threads": 2})) == pytest.approx(more), "more computing may hide more"
    assert doubt(predictor(), Candidate.of({"threads": 2})) == 0.0, "nothing was hidden"


def test_what_both_sides_read_from_makes_no_doubt_but_for_its_batches():
    assert 0 < doubted(line=0.2, eviction="next-use") < 0.02
    assert 0.1 < doubted(line=0.2, read_chunk=MIB // 2) < 0.13
    assert doubted(rounds=0.1, eviction="next-use") == pytest.approx(
        (110 / (50 + 60 * 3 / 5)) / (100 / (50 + 50 * 3 / 5)) - 1
    ), "of slower rounds more is reading"
