"""benchmarks/compare/goals.py: which goals are met, and what explains a miss."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import by_run, goals, other_goals
from benchmarks.compare.goals import compared, headline, judged, reads_less
from tests.compared_cells import MACHINE, PHASES, cell, row

ROOT = Path(__file__).parents[2]


def test_under_a_cap_decoding_is_held_to_the_peer_that_streams_and_prompts_to_llama_cpp():
    others = (cell("bigmoeonedge", 16.0, prefill=59), cell("llama.cpp", 39.0, prefill=20))
    assert judged(row(cell("ours", 40.0, prefill=60), *others))[0] == "2.50x, met", "not by the strongest of all"
    assert judged(row(cell("ours", 39.0), *others))[0] == "**2.44x, missed**"
    assert judged(row(cell("ours", 40.0, prefill=62), *others))[3:] == ["3.10x, met", "3.10x, met"]
    assert judged(row(cell("ours", 40.0, prefill=50), *others))[3:] == ["**2.50x, missed**", "2.50x, met"]


def test_in_memory_both_are_held_to_llama_cpp():
    peer = cell("llama.cpp", 40.0, "resident", prefill=30)
    found = judged(row(cell("ours", 40.0, "resident", prefill=59), peer))
    assert found == ["1.00x, met", "80 %", "4 %", "**1.97x, missed**", "**1.97x, missed**"]
    assert judged(row(cell("ours", 39.6, "resident"), peer))[0] == "**0.99x, missed**"


def test_where_the_peer_was_not_run_there_is_no_verdict():
    found = judged(row(cell("ours", 40.0), cell("llama.cpp", 16.0, prefill=60)))
    assert found[0] == "2.50x (llama.cpp)"
    assert judged(row(cell("ours", 40.0), cell("bigmoeonedge", 16.0)))[3:] == ["-", "-"]
    assert judged(row(cell("ours", 40.0)))[0] == "-"


@pytest.mark.parametrize(("regime", "tok_s", "said"), [
    ("50", 42.5, "85 %, met"), ("50", 42.0, "**84 %, missed**"), ("75", 42.0, "84 %"), ("25", 25.0, "**50 %, missed**"),
])  # fmt: skip
def test_the_limit_is_a_goal_at_half_and_below(regime, tok_s, said):
    assert judged(row(cell("ours", tok_s, regime), cell("llama.cpp", 4.0, regime)))[1] == said


def run_of(when: str, ours: float, peer: float, commit: str | None) -> list[dict[str, Any]]:
    pair = (cell("ours", ours, commit=commit), cell("bigmoeonedge", peer, commit=commit))
    return [side | {"when": f"2026-11-{when}:{minute}"} for side, minute in zip(pair, ("00", "20"), strict=True)]


def test_runs_are_compared_with_themselves_and_shown_one_by_one():
    z, a = "f" * 12, "a" * 12  # in the order of time, not of their names
    runs = [run_of("29T10", 20.0, 10.0, None), run_of("29T12", 25.0, 10.0, None), run_of("30T01", 30.0, 10.0, z),
            run_of("30T07", 40.0, 10.0, a)]  # fmt: skip
    found = list(by_run.lines([e for each in reversed(runs) for e in each], 2.5))
    page = [line for line in found if "| S1 |" in line]
    assert "3 of 4 runs under a cap reached 2.5x" in found[1]
    assert [line.split(" | ")[-1] for line in page] == ["2.00x |", "2.50x |", "3.00x |", "4.00x |"]
    assert "| 2026-11-29 | - | 20.0 (1) | 10.0 (1) |" in page[0]
    assert list(by_run.lines([*runs[0], *run_of("30T08", 1.0, 1.0, z)[:1]], 2.5)) == [], "one run: the goals show it"


@pytest.mark.parametrize(("regime", "other", "said"), [
    ("50", 43.5, "5 %, met"), ("75", 48.0, "**5 %, missed**"), ("resident", 100.0, "11 %"),
])  # fmt: skip
def test_other_time_is_a_goal_under_a_cap(regime, other, said):
    ours = cell("ours", 40.0, regime)
    ours["measured"]["decode"]["phase_ms"] = PHASES | {"other": other}
    assert judged(row(ours, cell("llama.cpp", 4.0, regime)))[2] == said


def test_a_policy_that_reads_less_is_to_be_no_slower():
    def page(tok_s: float, read: int) -> str:
        hobbit = cell("ours", tok_s, variant="hobbit")
        hobbit["measured"]["decode"] |= {"read_bytes": read}
        return "\n".join(compared([row(cell("ours", 20.0), hobbit)]))

    assert "| avx2 | S1 | 50 % | 2026-11-30 | 0.50 | **0.95x, missed** |" in page(19.0, 32)
    assert "| 0.50 | 1.10x, met |" in page(22.0, 32)
    assert "| 1.50 | 0.95x |" in page(19.0, 96), "it reads more: no goal"
    assert "over lossless" not in "\n".join(compared([row(cell("ours", 20.0))]))


@pytest.mark.parametrize(("lossless", "hobbit"), [(None, 32), (64, None), (None, None), (0, 32), (0, 0)])
def test_bytes_that_are_not_known_or_none_are_not_compared(lossless, hobbit):
    both = (cell("ours", 20.0), cell("ours", 19.0, variant="hobbit"))
    for side, read in zip(both, (lossless, hobbit), strict=True):
        side["measured"]["decode"]["read_bytes"] = read
    assert list(reads_less([row(*both)])) == []
    other = row(cell("ours", 20.0, "25"), cell("ours", 22.0, "25", variant="hobbit"))
    assert [line for line in reads_less([row(*both), other]) if "| S1 |" in line] == [
        "| avx2 | S1 | 25 % | 2026-11-30 | 1.00 | 1.10x |"
    ]


def test_a_ratio_across_runs_says_so():
    found = row(cell("llama.cpp", 10.0, "resident"), cell("ours", 20.0, "resident"))
    assert judged(found)[0] == "2.00x (earlier run), met"
    assert "in an earlier run" in headline([row(cell("bigmoeonedge", 10.0), cell("ours", 20.0))], [])


def test_the_readme_names_the_machine_measured_last():
    old = row(cell("ours", 90.0), cell("llama.cpp", 80.0))
    new = row(cell("ours", 21.4, when="2026-12-01", machine=MACHINE | {"isa": "neon"}),
              cell("llama.cpp", 8.0, machine=MACHINE | {"isa": "neon"}),
              cell("bigmoeonedge", 9.8, machine=MACHINE | {"isa": "neon"}))  # fmt: skip
    said = headline([new, old], [])
    assert "on C, 2 cores, neon" in said
    assert "21 tok/s, where the faster of 2 peers reaches 9.8 in the same run" in said
    with pytest.raises(SystemExit, match="S1 at 50 %"):
        headline([row(cell("ours", 90.0))], [])


def test_the_readme_says_the_range_of_all_runs():
    """The row is of the newest run alone, which flatters."""
    runs = [run_of("29T10", 20.0, 10.0, "a"), run_of("29T12", 24.0, 10.0, "b"), run_of("30T08", 34.0, 10.0, "c")]
    others = [each | changed for each in run_of("30T09", 90.0, 10.0, "c")
              for changed in ({"regime": "25"}, {"model": "S2"}, {"machine": MACHINE | {"isa": "neon"}})]  # fmt: skip
    entries = [each for run in runs for each in run] + others
    said = headline([row(*runs[-1])], entries)
    assert (
        "34 tok/s, where the peer reaches 10.0 in the same run. In 3 runs Hobbit Edge was 2.0 to 3.4 times as fast"
        in said
    )
    assert "in the same run. [docs" in headline([row(*runs[-1])], runs[-1]), "one run: nothing to add"
    llama = cell("llama.cpp", 12.0, commit="c", when="2026-11-30T08:25")
    said = headline([row(*runs[-1], llama)], [*entries, llama])
    assert "the faster of 2 peers reaches 12.0 in the same run. [docs" in said, "of that peer there is one run"


def test_a_first_prompt_beside_memory_being_taken_gets_no_verdict():
    def page(when: str) -> str:
        sides = cell("ours", 40.0, prefill=30.0, when=when), cell("llama.cpp", 16.0, when=when)
        return "\n".join(compared([row(*sides)]))

    assert "| **0.50x, missed** | 0.50x † |" in page("2026-11-30T07:02:35+00:00")
    assert "†: measured under a cap before 2026-11-30 07:02 UTC" in page("2026-11-30T07:02:35+00:00")
    assert "| first |" not in page("2026-11-26T07:02:35+00:00"), "nor a profile of a miss"
    assert "| **0.50x, missed** | **0.50x, missed** |" in page("2026-11-30T07:02:36+00:00")
    assert "†" not in page("2026-11-30T07:02:36+00:00")


def test_with_everything_in_memory_other_prompts_came_before_the_first():
    early = {"when": "2026-11-29T01"}
    found = row(cell("ours", 40.0, "resident", **early), cell("llama.cpp", 40.0, "resident", prefill=20, **early))
    assert judged(found)[4] == "3.00x, met"


def test_the_readme_does_not_name_a_machine_where_a_peer_is_missing():
    both = row(cell("ours", 21.4), cell("llama.cpp", 8.0), cell("bigmoeonedge", 9.8))
    chosen = MACHINE | {"isa": "neon"}
    weaker = row(cell("ours", 25.0, when="2026-12-01", machine=chosen),
                 cell("llama.cpp", 5.0, when="2026-12-01", machine=chosen))  # fmt: skip
    assert "reaches 9.8" in headline([both, weaker], [])


@pytest.fixture
def results(tmp_path):
    """A copy of the committed result files."""
    for path in [*(ROOT / "benchmarks/results").glob("policy_turns*.json"), ROOT / "benchmarks/results/turns.json",
                 *(ROOT / "docs/frontier").glob("base-resident*.json")]:  # fmt: skip
        shutil.copy(path, tmp_path)
    return tmp_path


def test_of_each_policy_the_newest_file_that_has_it_counts(results):
    newest = json.loads((results / "policy_turns_again.json").read_text())
    newest["rows"] = [dict(each, when="2027-01-01T00:00:00+00:00") for each in newest["rows"]]
    newest["commit"] = "feedbeef0000"
    newest["table"] = [each for each in newest["table"] if each["tier"] == 8]
    for each in newest["table"]:
        each["over_lossless"] = 1.25 if each["setting"] == "hobbit 8/2" else each["over_lossless"]
    (results / "policy_turns_third.json").write_text(json.dumps(newest))
    page = "\n".join(other_goals.lines(results, results))
    assert "| HOBBIT, 8 and 2 bits | 2027-01-01 | feedbeef | 1.25x | 1.25x, met |" in page
    assert "| Cache-Prior, lambda 0.3 | 2026-11-" in page, "of an older file, which has it"


def test_five_turns_are_to_take_less_not_more(results):
    found = json.loads((results / "turns.json").read_text())
    found["summary"]["this_over_other"]["all_turns_ms"] = {"median": 0.71, "low": 0.7, "high": 0.72}
    (results / "turns.json").write_text(json.dumps(found))
    assert "**0.71 (0.70-0.72), missed**" in "\n".join(other_goals.lines(results, results))


def test_the_pages_are_of_the_committed_results():
    assert goals.main(["--check"]) == 0, "run python -m benchmarks.compare goals"


def test_pages_out_of_date_are_found_and_left_alone(tmp_path):
    pages = [tmp_path / "docs/benchmarks.md", tmp_path / "README.md"]
    shutil.copytree(ROOT / "docs/frontier", tmp_path / "docs/frontier")
    for page in pages:
        page.write_text(f"{goals.BEGIN}\n{goals.END}\n")
    words = ["--results", str(ROOT / "benchmarks/results"), "--page", str(pages[0]), "--readme", str(pages[1])]
    assert goals.main([*words, "--check"]) == 1
    assert pages[0].read_text() == f"{goals.BEGIN}\n{goals.END}\n"
    assert goals.main(words) == 0
    assert goals.main([*words, "--check"]) == 0
    assert "**Measured** on" in pages[1].read_text()
