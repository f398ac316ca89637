"""Parts of `hobbit tune`: predictions, the journal, temperature and clock, processes, the profile it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from patience import until

from edge_runtime.base.errors import ConfigError, RequestError
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.cli.tune import parse_time
from edge_runtime.lab.tune.candidate import Candidate
from edge_runtime.lab.tune.fingerprint import fingerprint
from edge_runtime.lab.tune.gate import Fitness, Sentinel, TemperatureGate, hottest, limit_of
from edge_runtime.lab.tune.journal import Journal
from edge_runtime.lab.tune.laboratory import ProcessLaboratory
from edge_runtime.lab.tune.measurement import Failure, Measurement, Workload
from edge_runtime.lab.tune.predict import Predictor, Reads
from edge_runtime.lab.tune.processes import ended, run_job
from edge_runtime.lab.tune.read_times import Line, ReadTimes, measure, measure_fresh
from edge_runtime.lab.tune.speeds import ComputeSpeed, ComputeSpeeds, probe
from edge_runtime.lab.tune.workload import make_workload

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


def predictor(**other) -> Predictor:
    """A cache that reads less the larger it is; a drive of 1 GB/s and 0.1 ms, of half that rate in smaller chunks.

    A token uses 40 experts.
    """

    def replay(setting):
        size = 4e6 * 100 / setting.num_slots * (0.5 if setting.eviction == "next-use" else 1)
        return Reads(size, 10, {8: 30.0, 4: 10.0} if setting.policy == "hobbit" else {setting.tier: 40.0})

    drive = ReadTimes({(MIB, 8): Line(0.1, 1e-6), (MIB // 2, 8): Line(0.1, 2e-6)})
    fields = {"measured": MEASURED, "replay": replay, "drive": drive, "speeds": SPEEDS} | other
    return Predictor(PRESENT, {8: MIB, 4: MIB // 2}, 40, **fields)


def rate(found: Predictor, **options) -> float | None:
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


def test_memory_that_is_not_there_yet_costs_time_too():
    samples = [[MIB, 8, [[1000, [2.0]], [4000, [5.0]]]]]
    found = ReadTimes.of_samples(samples, [1000, [4.0, 9.0, 3.0]])
    assert found.fresh_byte_ms == pytest.approx(2.0 / 1000), "2 ms more than a read of 1000 bytes takes otherwise"
    assert ReadTimes.of_samples(samples, [1000, [1.0]]).fresh_byte_ms == 0.0

    def replay(setting):
        return Reads(4e6, 10, {setting.tier: 40.0}, 4e6 if setting.tier == 4 else 0.0)

    drive = ReadTimes({(MIB, 8): Line(0.1, 1e-6)}, 2e-6)
    assert rate(predictor(replay=replay, drive=drive), tier=4) == pytest.approx(1000 / (38 + 50 * (5 + 8) / 5))


def test_reads_are_timed_through_the_runtimes_own_reader(model_bundle):
    bundle = Bundle.open(model_bundle)
    (found,) = measure(bundle, 4, [(64 << 10, 2)])
    chunk, depth, batches = found
    layout = bundle.manifest.layout
    assert (chunk, depth) == (64 << 10, 2)
    assert [size for size, _ in batches] == [*(n * layout.tier_bytes(4) for n in (1, 2, 4)), layout.tier_bytes(2)]
    assert [len(times) for _, times in batches] == [15] * 4
    assert min(min(times) for _, times in batches) > 0
    size, times = measure_fresh(bundle, 4, (64 << 10, 2))
    assert size == layout.tier_bytes(4)
    assert min(times) > 0


def test_speeds_are_probed_and_one_that_fails_is_left_out():
    asked = []

    def job(candidate):
        asked.append((candidate.options["threads"], candidate.options["tier"]))
        if asked[-1] == (1, 8):
            return Failure("killed")
        return {"trunk_ms": 2.0 + (asked.count((4, 8)) != 2), "experts_ms": 1.0, "other_ms": 0.5}

    found = probe(job, [(4, 8), (1, 8)])
    assert asked == [(4, 8), (1, 8)] * 3, "in turn"
    assert found.to_json() == [{"threads": 4, "tier": 8, "trunk_ms": 2.0, "experts_ms": 1.0, "other_ms": 0.5}]
    assert found.of(1, 8) is None
    assert found.of(4, 8) == ComputeSpeed(2.0, 1.0, 0.5), "the fastest"


def test_the_journal_gives_back_what_it_got(tmp_path):
    path, about = tmp_path / "t.journal", {"fingerprint": "f", "bundle_id": "b"}
    journal = Journal(path, about)
    journal.put("reads", "{}", 0, MEASURED)
    journal.put("reads", "{}", 1, Failure("killed"))
    with open(path, "a") as file:
        file.write('{"stage": "reads", "cand')  # cut off by a power failure
    again = Journal(path, about)
    assert again.count == 2
    assert again.get("reads", "{}", 0) == MEASURED
    assert again.get("reads", "{}", 1) == Failure("killed")
    assert again.get("reads", "{}", 2) is None
    again.put("reads", "{}", 2, MEASURED)
    assert Journal(path, about).count == 3, "what was cut off is gone, and lines stay lines"
    again.remove()
    assert not path.exists()


def test_a_journal_is_never_shorter_than_what_was_measured(tmp_path, monkeypatch):
    """A process that is killed while it takes up a journal whose end was cut off leaves it as it was."""
    path, about = tmp_path / "t.journal", {"fingerprint": "f", "bundle_id": "b"}
    Journal(path, about).put("reads", "{}", 0, MEASURED)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"stage": "re')

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", die)
    with pytest.raises(KeyboardInterrupt):
        Journal(path, about)
    monkeypatch.undo()
    assert path.read_bytes().startswith(whole)
    assert Journal(path, about).count == 1
    assert path.read_bytes() == whole


def test_a_journal_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "t.journal").mkdir()
    with pytest.raises(ConfigError, match=r"t\.journal: cannot be read: Is a directory. Name another --out"):
        Journal(tmp_path / "t.journal", {})


def test_what_measures_ends_with_the_one_that_asked(tmp_path):
    code = (
        "import subprocess, sys\nfrom edge_runtime.base.children import dies_with_parent\n"
        "subprocess.run(['sh', '-c', 'echo $$; exec sleep 600'], preexec_fn=dies_with_parent())"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as asks:
        child = int(asks.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        asks.kill()
    until(lambda: not Path(f"/proc/{child}/exe").exists(), "the child is gone")


def test_the_journal_of_another_machine_is_not_gone_on_with(tmp_path):
    path = tmp_path / "t.journal"
    Journal(path, {"fingerprint": "f", "bundle_id": "b"})
    with pytest.raises(ConfigError, match="fingerprint changed"):
        Journal(path, {"fingerprint": "g", "bundle_id": "b"})
    path.write_text("what is this\n")
    with pytest.raises(ConfigError, match="is damaged"):
        Journal(path, {})
    path.write_text(
        json.dumps({"version": 2}) + '\n{"stage": "x", "candidate": "y", "round": 0, "measured": {"a": 1}}\n'
    )
    with pytest.raises(ConfigError, match="unknown key 'a'"):
        Journal(path, {})


def test_the_gate_waits_while_it_is_hot_and_gives_up_in_the_end():
    temperatures = iter([90.0, 85.0, 79.0])
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    gate = TemperatureGate(lambda: next(temperatures), 80.0, sleep=sleep, clock=lambda: now[0])
    assert gate.wait() == 79.0
    assert (gate.waited_s, gate.gave_up) == (4.0, 0)
    stuck = TemperatureGate(lambda: 95.0, 80.0, patience_s=10, sleep=sleep, clock=lambda: now[0])
    assert stuck.wait() == 95.0
    assert (stuck.waited_s, stuck.gave_up) == (10.0, 1)
    assert TemperatureGate(lambda: None).wait() is None, "no sensor: nothing to wait for"


def zone(root: Path, number: int, **files: str) -> None:
    folder = root / f"sys/class/thermal/thermal_zone{number}"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text + "\n")


def test_temperatures_and_trip_points_are_the_systems(tmp_path):
    assert hottest(tmp_path) is None
    assert limit_of(tmp_path) == 80.0
    zone(tmp_path, 0, temp="45500", trip_point_0_type="critical", trip_point_0_temp="105000")
    zone(tmp_path, 1, temp="61000", trip_point_0_type="passive", trip_point_0_temp="97000")
    zone(tmp_path, 2, temp="not a number", trip_point_0_type="hot", trip_point_0_temp="-1")
    assert hottest(tmp_path) == 61.0
    assert limit_of(tmp_path) == 87.0


class Jobs:
    """Processes that answer from a list."""

    def __init__(self, *answers):
        self.answers, self.jobs = list(answers), []

    def __call__(self, job, timeout_s):
        self.jobs.append(job)
        answer = self.answers.pop(0)
        return answer if isinstance(answer, Failure) else dict(answer)


def laboratory(jobs, clocks, tmp_path, budget_s=1000.0, clock=lambda: 0.0):
    rates = iter(clocks)
    fitness = Fitness(TemperatureGate(lambda: 50.0), Sentinel(lambda: next(rates)))
    workload = Workload([[1], [2]], 4)
    return ProcessLaboratory(
        tmp_path, {"memory": "1GiB"}, workload, journal=Journal(None, {}), fitness=fitness, budget_s=budget_s, run=jobs,
        clock=clock,
    )  # fmt: skip


def test_a_round_in_which_the_clock_was_off_is_measured_again(tmp_path):
    said = MEASURED.to_json() | {"answers": [[1]]}
    lab = laboratory(Jobs(said, said, said), [2.0, 1.5, 2.1], tmp_path)
    assert not lab.measure("a", Candidate(), 0, lossy=False).is_disturbed
    found = lab.measure("a", Candidate(), 1, lossy=False)
    assert isinstance(found, Measurement)
    assert (found.clock, found.is_disturbed, found.celsius) == (1.05, False, 50.0)
    assert len(lab.sentinel.rates) == 3


def test_a_clock_that_stays_off_is_said(tmp_path):
    said = MEASURED.to_json()
    jobs = Jobs(said, said, said, said)
    lab = laboratory(jobs, [2.0, 1.0, 1.0, 1.0], tmp_path)
    lab.measure("a", Candidate(), 0, lossy=False)
    found = lab.measure("a", Candidate.of({"threads": 2}), 0, lossy=False)
    assert found.is_disturbed
    assert found.clock == 0.5
    assert jobs.jobs[-1]["options"] == {"memory": "1GiB", "threads": 2}
    assert lab.measure("a", Candidate.of({"threads": 2}), 0, lossy=False) == found, "from the journal"
    assert not jobs.answers


def test_time_is_counted_by_what_measurements_took(tmp_path):
    now = iter(range(0, 1000, 10))
    lab = laboratory(Jobs(MEASURED.to_json()), [1.0], tmp_path, budget_s=100, clock=lambda: next(now))  # starts at 0
    assert lab.has_time(1000), "nothing is known yet"
    lab.measure("a", Candidate(), 0, lossy=False)  # from 20 to 30
    assert lab.has_time(6)  # 40 + 60
    assert not lab.has_time(6)  # 50 + 60


@pytest.mark.parametrize(
    ("code", "out", "err", "why"),
    [
        (-9, "", "", "SIGKILL (the system was out of memory"),
        (-11, "", "", "ended by SIGSEGV"),
        (78, '{"failed": "does not fit"}\n', "", "does not fit"),
        (1, "", "Traceback: oh no", "status 1: Traceback: oh no"),
        (0, "", "", "said nothing"),
    ],
)
def test_how_a_process_ended_is_understood(code, out, err, why):
    found = ended(code, out, err)
    assert isinstance(found, Failure)
    assert why in found.why


def test_a_process_that_is_refused_says_why(tmp_path):
    job = {"kind": "measure", "bundle": str(tmp_path), "options": {}, "workload": {"prompts": [[1]], "gen_tokens": 4}}
    found = run_job(job, 60)
    assert isinstance(found, Failure)
    assert "manifest.json" in found.why


def test_fingerprints_change_with_any_fact():
    facts = {"cpu": "A78AE", "memory_bytes": 8}
    assert len(fingerprint(facts)) == 16
    assert fingerprint(facts) == fingerprint(dict(reversed(facts.items())))
    assert fingerprint(facts) != fingerprint(facts | {"memory_bytes": 16})


def test_workloads_have_a_prompt_for_every_request(tmp_path):
    class Tokenizer:
        def encode(self, text):
            return [ord(letter) for letter in text]

    numbers = {"prompt_tokens": 3, "gen_tokens": 4, "requests": 2, "seed": 1}
    random = make_workload(Tokenizer(), 50, text=None, **numbers)
    assert [len(prompt) for prompt in random.prompts] == [3, 3, 3]
    assert len({tuple(prompt) for prompt in random.prompts}) == 3
    path = tmp_path / "t.txt"
    path.write_text("abcdefghi")
    assert make_workload(Tokenizer(), 50, text=path, **numbers).prompts[2] == [ord(c) for c in "ghi"]
    with pytest.raises(RequestError, match="cannot read"):
        make_workload(Tokenizer(), 50, text=tmp_path / "no", **numbers)
    with pytest.raises(RequestError, match="gen-tokens"):
        make_workload(Tokenizer(), 50, text=None, **(numbers | {"gen_tokens": 1}))


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("20m", 1200), ("1.5h", 5400)])
def test_times(text, seconds):
    assert parse_time(text) == seconds


def test_a_time_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="--time-budget"):
        parse_time("soon")


def test_where_the_clock_is_never_steady_nothing_is_repeated(tmp_path):
    said = MEASURED.to_json()
    jobs = Jobs(*[said] * 20)
    lab = laboratory(jobs, [1.0, *[0.5, 0.7] * 10], tmp_path)
    for number in range(8):
        lab.measure("a", Candidate(), number, lossy=False)
    assert lab.sentinel.is_hopeless
    assert len(jobs.jobs) == 1 + 3 + 2 + 5, "repeated until six rates told enough"
