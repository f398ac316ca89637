"""benchmarks/compare: which build and instruction set a result is of, what is measured anew, what a report takes."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from benchmarks.compare import report, results, run
from benchmarks.compare.figures import rows
from benchmarks.compare.results import Again, label, newest
from benchmarks.source import CHANGED, commit

HERE = {"cpu": "C", "cpus": 2, "isa": "avx512vnni"}
STAGE = {"n": 64, "ms": 1000.0, "read_bytes": 64, "touched_bytes": 1, "phase_ms": {"other": 1.0},
         "experts": {"hits": 1, "late": 0, "misses": 0, "bytes_read": 0, "read_gbps": None}}  # fmt: skip


def cell(number: int, ms: float = 1000.0, **more: Any) -> dict[str, Any]:
    """A result of round `number`."""
    measured = {name: STAGE | {"ms": ms} for name in ("prefill_cold", "decode", "prefill")}
    base = {"machine": HERE, "model": "S1", "regime": "50", "round": number, "side": "ours", "variant": "lossless",
            "cap_bytes": 1, "when": "2026-11-30T08", "bus_gbps": 30.0, "drive_gbps": 2.0, "measured": measured}  # fmt: skip
    return base | more


def peer(number: int, version: str | None, **more: Any) -> dict[str, Any]:
    return cell(number, side="llama.cpp", variant="mmap", version=version, **more)


def rounds(entries: list[dict[str, Any]], again: Again) -> list[tuple[str, int]]:
    return sorted((found.side, found.round) for found in results.done(entries, again))


def test_what_another_commit_measured_is_measured_anew_when_asked():
    entries = [cell(0), cell(1, commit="a"), cell(2, commit="b"), peer(0, "1"), peer(1, "1", commit="b")]
    everything = [("llama.cpp", 0), ("llama.cpp", 1), ("ours", 0), ("ours", 1), ("ours", 2)]
    assert rounds(entries, Again(commit="b")) == everything
    assert rounds(entries, Again(sides="ours", commit="b")) == [("llama.cpp", 0), ("llama.cpp", 1), ("ours", 2)]
    assert rounds(entries, Again(sides="all", commit="b")) == [("llama.cpp", 1), ("ours", 2)]
    assert rounds([*entries, cell(0, commit="b")], Again(sides="ours", commit="b"))[-2:] == [("ours", 0), ("ours", 2)]


def test_what_failed_is_measured_again_only_if_it_failed_before():
    failed = cell(0) | {"measured": None, "error": "killed"}
    assert rounds([failed, cell(1)], Again(failed_before=2)) == [("ours", 1)]
    assert rounds([cell(1), failed], Again(failed_before=1)) == [("ours", 0), ("ours", 1)]


def test_no_median_mixes_builds():
    old, new = [cell(i, 1000.0) for i in range(4)], [cell(i, 500.0, commit="b") for i in range(2)]
    (row,) = rows(newest([*old, *new])[0])
    assert row["lossless"]["decode"]["tok_s"] == 128.0
    assert row["lossless"]["decode"]["n"] == 2
    assert row["lossless"]["commit"] == "b"
    kept, left_out = newest([*old, {"settings": {}}, *new, peer(0, "1"), peer(0, "2"), peer(1, "2", commit="b")])
    assert left_out == 5
    assert [results.build(e) for e in kept if "side" in e] == ["b", "b", ("2", None), ("2", None)]
    assert {"settings": {}} in kept
    other = cell(0, machine=HERE | {"isa": "avx2"})
    assert newest([other, *new]) == ([other, *new], 0), "another machine's results are of a build of their own"


def test_a_report_names_the_commits_and_what_it_leaves_out():
    entries, left_out = newest([cell(0), cell(0, commit="abc"), cell(0, commit="def", variant="hobbit")])
    page = report.markdown(rows(entries), entries, "x.png", left_out)
    assert "1 older cells" in page
    assert "- Commits of ours: abc (1 cells), def (1 cells)." in page
    assert "| ours, lossless | abc |" in page
    assert "| ours, hobbit | def |" in page
    entries, left_out = newest([cell(0)])
    page = report.markdown(rows(entries), entries, "x.png", left_out)
    assert "older cells" not in page
    assert "- Commits of ours: not recorded." in page


def test_a_peers_results_count_only_of_the_run_of_our_newest_commit():
    """On a fast day the peer did 128 tok/s, on the slow one both were slower."""
    fast = [cell(0, 250.0, commit="a"), *(peer(i, "1", ms=500.0, when="2026-11-29") for i in range(3))]
    slow = [cell(0, 500.0, commit="b"), peer(0, "1", ms=2000.0, when="2026-11-30")]
    entries, left_out = newest([*fast, *slow])
    (row,) = rows(entries)
    assert left_out == 1
    assert row["peer"]["decode"]["tok_s"] == 32.0, "not the 128 of another day, nor a median of both"
    assert row["peer"]["decode"]["n"] == 1
    assert row["lossless"]["decode"]["against_peer"] == 4.0
    assert (row["earlier"], row["stand_ins"]) == (2, {})
    page = report.markdown([row], entries, "x.png", left_out)
    assert "2 cells from before the first one of our newest commit do not count" in " ".join(page.split())
    assert "(earlier run)" not in page


def test_a_mode_of_an_earlier_run_is_listed_and_does_not_win():
    other = peer(0, "1", ms=10.0) | {"variant": "mmap+ra128"}
    (row,) = rows([other, cell(0, commit="b"), peer(0, "1")])
    assert row["peer"]["decode"]["mode"] == "llama.cpp mmap"
    page = report.markdown([row], [], "x.png")
    assert "llama.cpp mmap 64.00 / 64.0 (1); llama.cpp mmap+ra128 (earlier run) 6400.00" in page


def test_a_peer_that_was_not_run_again_stands_in_and_the_page_says_so():
    slow = peer(0, "1", ms=4000.0) | {"side": "other"}
    entries = [peer(0, "1", when="2026-11-28"), peer(1, "1", when="2026-11-29"), cell(0, 500.0, commit="b"), slow]
    (row,) = rows(entries)
    assert row["stand_ins"] == {"llama.cpp": "2026-11-28 and 2026-11-29"}
    assert row["earlier"] == 0
    page = report.markdown([row], entries, "x.png")
    said = " ".join(page.split())
    assert "- **S1, 50 %: llama.cpp was not measured in the run of our newest commit. Its results are of 2026" in said
    assert "Where it says *earlier run* it is not" in said
    assert "| 64.00 (llama.cpp mmap, 2) **(earlier run)** | 128.00 (1) | 2.00x **(earlier run)** |" in page
    assert "| S1 | 50 % | other | 16.00 (other mmap, 1) |" in page, "of the run, so not marked"


def test_a_policy_of_ours_that_was_not_run_again_is_marked():
    entries = [cell(0, commit="a", variant="hobbit"), cell(0, 500.0, commit="b"), peer(0, "1")]
    page = report.markdown(rows(entries), entries, "x.png")
    assert (
        "| 128.00 (1) | 2.00x | 64.00 (1) **(earlier run)** | 1.00x **(earlier run)** | 0.50x **(earlier run)** |"
        in page
    )


def test_a_cell_measured_again_is_of_the_later_run():
    """Its place in the file counts, not that of the result it replaces."""
    (row,) = rows([peer(0, "1"), cell(0, commit="b"), peer(0, "1", ms=2000.0)])
    assert row["stand_ins"] == {}
    assert row["peer"]["decode"]["tok_s"] == 32.0


def test_peers_alone_all_count():
    (row,) = rows([peer(0, "1"), peer(1, "1", ms=2000.0)])
    assert row["peer"]["decode"]["n"] == 2
    assert (row["earlier"], row["stand_ins"]) == (0, {})


def test_the_page_is_of_the_committed_results(capsys):
    assert report.main(["--check"]) == 0, "run python -m benchmarks.compare report"


def test_a_page_out_of_date_is_found_and_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"{report.BEGIN}\nold\n{report.END}\n")
    assert report.main(["--page", str(page), "--plot", str(tmp_path / "p.png"), "--check"]) == 1
    assert page.read_text() == f"{report.BEGIN}\nold\n{report.END}\n"
    assert not (tmp_path / "p.png").exists()


def test_a_run_with_nothing_to_do_says_whose_results_these_are():
    entries = [cell(0), cell(1, commit="a"), cell(2, commit="a"), peer(0, "1")]
    assert "(2 of ours with another commit than b; --anew ours" in results.of_other_commits(entries, HERE, "b")
    assert results.of_other_commits(entries, HERE, "a") == ""
    assert results.of_other_commits(entries, HERE | {"isa": "avx2"}, "b") == ""


def test_a_chosen_instruction_set_is_not_taken_for_a_lesser_processor():
    assert label(HERE | {"isa": "avx2"}) == "C, 2 cores, avx2"
    assert label(HERE | {"isa": "avx2", "best_isa": "avx512vnni"}) == "C, 2 cores, avx2 chosen, has avx512vnni"


def test_a_commit_says_whether_the_code_had_changes(tmp_path):
    def git(*words: str) -> None:
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(("git", *identity, *words), cwd=tmp_path, check=True, capture_output=True)

    for name in ("edge_runtime/a.py", "docs/a.md", "benchmarks/results/r.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "x")
    clean = commit(tmp_path)
    assert clean is not None
    assert len(clean) == 12
    for name in ("docs/a.md", "benchmarks/results/r.json"):
        (tmp_path / name).write_text("2")
    assert commit(tmp_path) == clean, "results and pages are written while measuring"
    (tmp_path / "edge_runtime/a.py").write_text("2")
    assert commit(tmp_path) == clean + CHANGED


def test_without_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert commit(tmp_path) is None


@pytest.mark.parametrize("words", [["--anew", "peers"], ["--anew"]])
def test_sides_to_measure_anew_are_ours_or_all(words):
    with pytest.raises(SystemExit):
        run.parser().parse_args(["--peer", "x", "--model", "a", "b", "c", "d", *words])
