"""benchmarks/compare without peers: plan of cells, results file, figures, page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.compare import results, run
from benchmarks.compare.figures import limited_by, limits_ms, rows, share_of_limit
from benchmarks.compare.report import BEGIN, END, markdown, put
from benchmarks.compare.results import Again
from benchmarks.compare.thresholds import second_half
from benchmarks.compare.workload import (
    CAPS,
    HOBBIT,
    LOSSLESS,
    RESIDENT,
    Cell,
    Model,
    cap_bytes,
    kept_modes,
    modes_for,
    tokens_of,
)

OLD_HELP = "--no-mmap   do not memory-map model\n-nr, --no-repack  disable weight repacking\n--mlock  force system\n"


LLAMA = "llama.cpp"
MACHINE = {"cpu": "C", "cpus": 2, "isa": "avx2"}
HERE = "C, 2 cores, avx2"


def test_caps_are_shares_of_the_peers_file():
    model = Model("S1", (), Path("t"), Path("b"), Path("g"), 1_000_001)
    assert cap_bytes(model, RESIDENT) is None
    assert [cap_bytes(model, regime) for regime in CAPS] == [750_000, 500_000, 350_000, 250_000]


def test_both_sides_get_the_same_prompts_and_rounds_get_others():
    stream = list(range(4096))
    first = tokens_of(stream, "50", 0)
    assert first == tokens_of(stream, "50", 0)
    assert (first.fill, first.first[0], len(first.first), len(first.second)) == ([], 0, 128, 128)
    assert not set(first.first) & set(first.second)
    others = [tokens_of(stream, "50", n) for n in range(1, 4)]
    assert len({tuple(t.first) for t in [first, *others]}) == 4
    assert len({t.seed for t in [first, *others]}) == 4
    fill = tokens_of(stream, RESIDENT, 0).fill
    assert sum(map(len, fill)) == 1536
    assert min(min(f) for f in fill) >= 2048, "what fills memory is not what is measured"
    with pytest.raises(ValueError, match="at least"):
        tokens_of(stream[:1000], "50", 0)


def test_every_mode_of_the_build_is_tried_and_the_best_are_kept():
    assert [m.name for m in modes_for("50", ("mmap", "none", "dio"))] == [
        "mmap", "mmap+repack", "mmap+ra128", "mmap+ra512", "mmap+ra2048", "dio",
    ]  # fmt: skip
    assert "dio" not in [m.name for m in modes_for("50", ("mmap", "none"))]
    assert [m.name for m in modes_for(RESIDENT, ("mmap", "none"))] == ["mmap", "mmap+repack", "none+repack"]
    modes = modes_for("50", ("mmap", "none", "dio"))
    assert kept_modes(LLAMA, modes, []) == modes
    first = [
        entry(LLAMA, "mmap", decode=5.0, prefill=10),
        entry(LLAMA, "mmap+ra512", decode=4.0, prefill=11),
        entry(LLAMA, "mmap+ra2048", decode=3.0, prefill=30),
        entry("other", "mmap+ra128", decode=9.0, prefill=90),
        {"side": LLAMA, "variant": "dio", "error": "does not fit"},
    ]
    assert [m.name for m in kept_modes(LLAMA, modes, first)] == ["mmap", "mmap+ra512", "mmap+ra2048"]


def entry(
    side: str, variant: str, *, decode: float, prefill: float, number: int = 0, regime: str = "50", isa: str = "avx2"
) -> dict:
    """A measured cell with given tokens a second; ours reads 40 MB a token at a drive of 1 GB/s."""
    found = {
        name: {"n": n, "ms": 1000 * n / rate, "read_bytes": n * 40_000_000}
        for name, n, rate in (("decode", 64, decode), ("prefill", 128, prefill), ("prefill_cold", 128, prefill / 2))
    }
    if side == "ours":
        found["decode"] |= {
            "touched_bytes": 64 * 200_000_000,
            "phase_ms": {"trunk": 30.0, "experts": 20.0, "read_wait": 45.0, "other": 5.0},
            "experts": {"hits": 60, "late": 0, "misses": 40, "bytes_read": 64 * 40_000_000, "read_gbps": 0.9},
        }
    return {
        "machine": MACHINE | {"isa": isa}, "model": "S1", "regime": regime, "round": number, "side": side, "variant": variant, "cap_bytes": 10,
        "drive_gbps": 1.0, "bus_gbps": 40.0, "when": "2026-01-01", "peak_bytes": 9, "measured": found,
    }  # fmt: skip


def test_figures_are_medians_and_the_peers_best_lasting_mode():
    entries = [
        *(entry("ours", LOSSLESS, decode=rate, prefill=60, number=n) for n, rate in enumerate((19, 20, 30))),
        *(entry("ours", HOBBIT, decode=rate, prefill=60, number=n) for n, rate in enumerate((40, 39, 41))),
        *(entry(LLAMA, "mmap", decode=rate, prefill=30, number=n) for n, rate in enumerate((4, 5, 9))),
        *(entry(LLAMA, "mmap+ra512", decode=3, prefill=40, number=n) for n in range(3)),
        entry(LLAMA, "mmap+ra2048", decode=7, prefill=10),
        {**entry(LLAMA, "dio", decode=1, prefill=1), "measured": None, "error": "no"},
    ]
    (row,) = rows(entries)
    assert row["machine"] == HERE
    assert row["peer"]["decode"]["mode"] == "llama.cpp mmap", (
        "one lucky round of a mode that was dropped does not count"
    )
    assert row["peer"]["decode"]["tok_s"] == 5
    assert row["peer"]["prefill"]["mode"] == "llama.cpp mmap+ra512"
    assert row["lossless"]["decode"]["tok_s"] == pytest.approx(20)
    assert row["lossless"]["decode"]["against_peer"] == pytest.approx(4)
    assert row["lossless"]["prefill"]["against_peer"] == pytest.approx(1.5)
    assert row["hobbit"]["against_lossless"] == pytest.approx(2)
    assert row["lossless"]["share_of_limit"] == pytest.approx(0.8), "40 MB a token at 1 GB/s are 40 ms of 50"
    assert row["lossless"]["limited_by"] == "drive"
    assert row["lossless"]["share_of_drive"] == pytest.approx(0.9)
    assert row["lossless"]["other_percent"] == pytest.approx(5)
    assert row["modes"]["llama.cpp dio"]["error"] == "no"


def test_of_several_peers_the_strongest_counts_at_each_stage():
    other = entry("bigmoeonedge", "overlap+cache70", decode=8, prefill=20)
    del other["measured"]["prefill"]
    (row,) = rows([entry("ours", LOSSLESS, decode=16, prefill=60), entry(LLAMA, "mmap", decode=4, prefill=30), other])
    assert row["peer"]["decode"]["mode"] == "bigmoeonedge overlap+cache70"
    assert row["lossless"]["decode"]["against_peer"] == pytest.approx(2)
    assert row["peer"]["prefill"]["mode"] == "llama.cpp mmap", "the other one did not measure a second prompt"
    assert row["peers"]["bigmoeonedge"]["prefill"] is None
    assert row["peers"][LLAMA]["decode"]["tok_s"] == pytest.approx(4)


def test_machines_of_different_instruction_sets_are_never_mixed():
    found = rows(
        [entry("ours", LOSSLESS, decode=rate, prefill=60, isa=isa) for isa, rate in (("avx2", 10), ("avx512vnni", 40))]
    )
    assert [(row["machine"], row["lossless"]["decode"]["tok_s"]) for row in found] == [
        (HERE, pytest.approx(10)),
        ("C, 2 cores, avx512vnni", pytest.approx(40)),
    ]
    text = markdown(found, [entry("ours", LOSSLESS, decode=10, prefill=60)] * 2 + [
        entry("ours", LOSSLESS, decode=40, prefill=60, isa="avx512vnni")], "b.png")  # fmt: skip
    assert text.index(f"### {HERE}") < text.index("### C, 2 cores, avx512vnni")
    cells = results.done([entry("ours", LOSSLESS, decode=10, prefill=60)], Again())
    assert Cell("S1", "50", 0, "ours", LOSSLESS, "C, 2 cores, avx512vnni") not in cells, "measured anew elsewhere"


def test_a_cell_measured_again_replaces_the_older_one():
    (row,) = rows([entry("ours", LOSSLESS, decode=1, prefill=1), entry("ours", LOSSLESS, decode=8, prefill=1)])
    assert row["lossless"]["decode"]["tok_s"] == pytest.approx(8)
    assert row["lossless"]["decode"]["against_peer"] is None


def test_where_nothing_is_missed_the_bus_is_the_limit():
    cell = entry("ours", LOSSLESS, decode=100, prefill=1)
    cell["measured"]["decode"]["experts"]["bytes_read"] = 0
    assert limits_ms(cell) == (0.0, pytest.approx(64 * 5.0))
    assert limited_by(cell) == "bus"
    assert share_of_limit(cell) == pytest.approx(0.5)


def test_results_are_appended_whole_and_resumed(tmp_path):
    path = tmp_path / "new" / "r.jsonl"
    assert results.read(path) == []
    good = entry("ours", LOSSLESS, decode=1, prefill=1)
    bad = {**entry(LLAMA, "mmap", decode=1, prefill=1), "measured": None, "error": "killed"}
    results.append(path, {"machine": {}})
    results.append(path, good)
    results.append(path, bad)
    found = results.read(path)
    cells = [Cell("S1", "50", 0, "ours", LOSSLESS, HERE), Cell("S1", "50", 0, LLAMA, "mmap", HERE)]
    retry = Again(failed_before=len(found))
    assert results.done(found, Again()) == set(cells)
    assert results.done(found, retry) == {cells[0]}
    assert results.done([*found, bad], retry) == set(cells), "failed again: not tried for ever"
    with open(path, "ab") as file:
        file.write(b'{"v":2,"model":"S1","reg')  # a crash
    assert results.read(path) == found
    results.append(path, good)
    assert len(results.read(path)) == len(found) + 1
    path.write_text('{"v":9}\n')
    with pytest.raises(SystemExit, match="version"):
        results.read(path)
    path.write_text('{"v"\n{"v":1}\n')
    with pytest.raises(SystemExit, match="line 1 is damaged"):
        results.read(path)


def test_results_name_files_and_no_folders(tmp_path):
    path = tmp_path / "r.jsonl"
    failed = "not ready; last output: load_model: loading '/home/me/models/s1.gguf' at 3 GB/s/core, and/or 1/2"
    results.append(path, {"error": failed, "cells": [{"file": "/a/b.bin"}], "drive": 2.5})
    (found,) = results.read(path)
    assert found["error"] == failed.replace("/home/me/models/", "")
    assert (found["cells"], found["drive"]) == ([{"file": "b.bin"}], 2.5)


def test_the_page_keeps_what_is_around_its_markers():
    entries = [
        entry("ours", LOSSLESS, decode=20, prefill=60),
        entry(LLAMA, "mmap", decode=5, prefill=30),
        json.loads(json.dumps({"machine": {"cpu": "C", "isa": "avx2", "machine": "x86_64", "cpus": 2, "memory_bytes": 2**30,
                               "kernel": "L", "file_system": "ext4", "drive": {"name": "vda", "read_ahead_kib": 128}},
                               "versions": {"numpy": "2"}, "peers": {LLAMA: "version: 1"},
                               "settings": {"threads": 2, "tier": 4, "io_threads": 4}})),
    ]  # fmt: skip
    text = markdown(rows(entries), entries, "images/b.png")
    wanted = "| S1 | 50 % | 5.00 (llama.cpp mmap, 1) | 20.00 (1) | 4.00x | - | - | - "
    assert f"{wanted}| 30.0 (llama.cpp mmap, 1) | 60.0 (1) | 2.00x |" in text
    page = put(f"intro\n{BEGIN}\nstale\n{END}\noutro\n", text)
    assert page.startswith("intro\n")
    assert page.endswith(f"{END}\noutro\n")
    assert "stale" not in page
    assert put(page, text) == page
    with pytest.raises(SystemExit, match="markers|lines"):
        put("no markers", text)


def test_thresholds_are_measured_once_and_on_text_no_prompt_comes_from(tmp_path, monkeypatch):
    assert second_half("a bc de fg") == " fg"
    assert second_half("abcdef") == "def"
    calls = []
    monkeypatch.setattr(run, "hobbit_policy", lambda *args: calls.append(args) or ("hobbit:t1=0.5,t2=0.9", "here"))
    args = run.parser().parse_args(
        ["--peer", "llama.cpp=p", "--model", "S1", "c", "b", "g", "--out", str(tmp_path / "r.jsonl")]
    )
    model = Model("S1", (), Path("t"), Path("b"), Path("g"), 1)
    first = run.policy_of(model, results.read(args.out), args)
    again = run.policy_of(model, results.read(args.out), args)
    assert first == again == "hobbit:t1=0.5,t2=0.9"
    assert len(calls) == 1


def test_progress_lines_say_what_came_of_a_cell():
    good = entry(LLAMA, "mmap", decode=5, prefill=30)
    cell = results.cell_of(good)
    assert "S1 50 % round 0 llama.cpp mmap: decode 5.00 tok/s, prefill 30.0 (cold 15.0) tok/s, 40.0 MB" in run.line(
        cell, good, 1, 9
    )
    assert "FAILED: does not fit" in run.line(cell, {"error": "does not fit"}, 1, 9)
