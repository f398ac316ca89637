"""Parts of `hobbit tune`: the journal, temperature and clock, processes, the profile it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from patience import until

from edge_runtime.base.errors import ConfigError, RequestError
from edge_runtime.cli.tune import parse_time
from edge_runtime.lab.tune.candidate import Candidate
from edge_runtime.lab.tune.fingerprint import fingerprint
from edge_runtime.lab.tune.gate import Fitness, Sentinel, TemperatureGate, hottest, limit_of
from edge_runtime.lab.tune.journal import Journal
from edge_runtime.lab.tune.laboratory import ProcessLaboratory, Reference
from edge_runtime.lab.tune.measurement import Failure, Measurement, Workload
from edge_runtime.lab.tune.predict import Reads
from edge_runtime.lab.tune.processes import ended, run_job
from edge_runtime.lab.tune.rehearsal import Rehearsal
from edge_runtime.lab.tune.workload import make_workload

MEASURED = Measurement([10.0], [1.0], 1.0, "x", {"trunk": 60.0, "read_wait": 40.0}, read_busy_ms=40.0)


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


def test_the_journal_keeps_rehearsals(tmp_path):
    path, told = tmp_path / "t.journal", Rehearsal(Reads(5e6, 2.5, {8: 3.0, 2: 1.5}), 0.01)
    journal = Journal(path, {})
    journal.put_rehearsal("a", told)
    journal.put_rehearsal("b", Failure("killed"))
    journal.put("reads", "a", 0, MEASURED)
    again = Journal(path, {})
    assert [again.rehearsal(key) for key in "abc"] == [told, Failure("killed"), None]
    assert (again.count, again.get("reads", "a", 0)) == (1, MEASURED)
    path.write_text(path.read_text().replace('"uses"', '"used"'))
    with pytest.raises(ConfigError, match="is damaged"):
        Journal(path, {})


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
        json.dumps({"version": 3}) + '\n{"stage": "x", "candidate": "y", "round": 0, "measured": {"a": 1}}\n'
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


def test_tokens_that_read_nothing_are_timed_where_predictions_begin(tmp_path):
    said = MEASURED.to_json()
    jobs, other = Jobs(said, said, said, said), Candidate.of({"threads": 2})
    lab = laboratory(jobs, [1.0] * 4, tmp_path)
    for number, candidate in enumerate([Candidate(), other]):
        lab.measure("a", candidate, number, lossy=False)
    lab.begin_with(other, [MEASURED])
    for number, candidate in enumerate([Candidate(), other]):
        lab.measure("b", candidate, number, lossy=False)
    assert [job["resident"] for job in jobs.jobs] == [True, False, False, True]


def test_a_candidate_is_rehearsed_once_and_predicted_by_that(tmp_path):
    told, policy = Rehearsal(Reads(5e6, 2.5, {8: 3.0}), 0.01), Candidate.of({"policy": "skip"})
    jobs = Jobs(told.to_json(), Failure("killed"), {"uses": {}})
    lab = laboratory(jobs, [], tmp_path)
    lab.reference = Reference(tmp_path / "logits.npy", [1, 2])
    known = []
    lab.predictor = SimpleNamespace(know=lambda *args: known.append(args))
    assert [lab.rehearse(policy), lab.rehearse(policy)] == [told, told]
    (job,) = jobs.jobs
    assert (job["kind"], job["options"]["policy"], job["reference_tokens"]) == ("rehearse", "skip", [1, 2])
    assert known == [(policy, told.reads)] * 2, "also what comes from a journal"
    assert lab.rehearse(Candidate.of({"tier": 2})) == Failure("killed")
    assert isinstance(lab.rehearse(Candidate.of({"tier": 4})), Failure), "what it said is no rehearsal"
    assert len(known) == 2


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
