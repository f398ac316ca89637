"""benchmarks/compare without a peer: plan of cells, parsing of recorded answers, results file, figures, page."""

from __future__ import annotations

import json
from pathlib import Path

import fake_llama_server as fake
import pytest

from benchmarks.compare import results, run
from benchmarks.compare.figures import limited_by, limits_ms, read_per_token, rows, share_of_limit
from benchmarks.compare.peer import (
    Abilities,
    PeerError,
    checked,
    command,
    decode_stage,
    less,
    prompt_stage,
    request_body,
)
from benchmarks.compare.report import BEGIN, END, markdown, put
from benchmarks.compare.thresholds import second_half
from benchmarks.compare.workload import (
    CAPS,
    HOBBIT,
    LOSSLESS,
    MODES,
    RESIDENT,
    Cell,
    Model,
    cap_bytes,
    cells_of_round,
    kept_modes,
    modes_for,
    tokens_of,
)

OLD_HELP = "--no-mmap   do not memory-map model\n-nr, --no-repack  disable weight repacking\n--mlock  force system\n"


def mode(name: str):
    return next(m for m in MODES if m.name == name)


def test_caps_are_shares_of_the_peers_file():
    model = Model("S1", (), Path("t"), Path("b"), Path("g"), 1_000_001)
    assert cap_bytes(model, RESIDENT) is None
    assert [cap_bytes(model, regime) for regime in CAPS] == [750_000, 500_000, 350_000, 250_000]


def test_cells_alternate_between_the_sides():
    cells = cells_of_round("S1", "50", 2, [mode("mmap"), mode("mmap+ra512"), mode("dio")], hobbit=True)
    assert [(c.side, c.variant) for c in cells] == [
        ("ours", LOSSLESS), ("peer", "mmap"), ("ours", HOBBIT), ("peer", "mmap+ra512"), ("peer", "dio"),
    ]  # fmt: skip
    assert all(c.variant != HOBBIT for c in cells_of_round("S1", RESIDENT, 0, [mode("mmap")], hobbit=True))


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
    assert kept_modes(modes, []) == modes
    first = [
        entry("peer", "mmap", decode=5.0, prefill=10),
        entry("peer", "mmap+ra512", decode=4.0, prefill=11),
        entry("peer", "mmap+ra2048", decode=3.0, prefill=30),
        {"side": "peer", "variant": "dio", "error": "does not fit"},
    ]
    assert [m.name for m in kept_modes(modes, first)] == ["mmap", "mmap+ra512", "mmap+ra2048"]


def test_abilities_of_new_and_old_builds():
    assert Abilities.parse(fake.HELP).loads == ("mmap", "none", "dio")
    old = Abilities.parse(OLD_HELP)
    assert old.loads == ("mmap", "none")
    assert "--no-repack" in old.flags
    assert "--load-mode" not in old.flags


def test_the_servers_command_line():
    able = Abilities.parse(fake.HELP)
    argv = command(Path("p/llama-server"), Path("m.gguf"), mode("mmap"), able, regime="50", port=81)
    assert argv[:3] == ["p/llama-server", "-m", "m.gguf"]
    for pair in (["-t", "2"], ["-tb", "2"], ["--load-mode", "mmap"], ["--fit", "off"], ["--port", "81"]):
        assert argv[argv.index(pair[0]) + 1] == pair[1]
    assert {"--no-repack", "--no-warmup", "--no-slots"} <= set(argv)
    assert "--no-ui" not in argv, "this build does not name it"
    resident = command(Path("s"), Path("m"), mode("mmap+repack"), able, regime=RESIDENT, port=81)
    assert not {"--no-repack", "--no-warmup"} & set(resident), "at its best: repacked and warmed up"
    old = command(Path("s"), Path("m"), mode("none"), Abilities.parse(OLD_HELP), regime=RESIDENT, port=81)
    assert "--no-mmap" in old
    with pytest.raises(PeerError, match="dio"):
        command(Path("s"), Path("m"), mode("dio"), Abilities.parse(OLD_HELP), regime="50", port=81)


def test_stages_of_recorded_answers():
    timings = checked(fake.answer(128, 64), prompt_n=128, predicted_n=64)
    assert prompt_stage(timings, 5) == {"n": 128, "ms": fake.PROMPT_MS, "read_bytes": 5}
    timings = checked(fake.answer(1, 65), prompt_n=1, predicted_n=65)
    found = decode_stage(timings, 650)
    assert found == {"n": 64, "ms": 64 * fake.STEP_MS, "read_bytes": 650, "read_passes": 65}
    assert read_per_token({"measured": {"decode": found}}) == 10
    assert less(5, 3) == 2
    assert less(None, 3) is None


def test_answers_that_are_not_what_was_asked_for():
    with pytest.raises(PeerError, match="expected 1 tokens of prompt to be run and 65 generated, got 193 and 65"):
        checked(fake.answer(193, 65), prompt_n=1, predicted_n=65)  # the build did not go on from its own answer
    with pytest.raises(PeerError, match="got 128 and 12"):
        checked(fake.answer(128, 12), prompt_n=128, predicted_n=64)
    with pytest.raises(PeerError, match="exceeds the available context"):
        checked(
            {"error": {"code": 400, "message": "the request exceeds the available context size"}},
            prompt_n=1,
            predicted_n=1,
        )
    fresh = request_body([1, 2], 5, 9)
    assert (fresh["prompt"], fresh["n_predict"], fresh["cache_prompt"], fresh["seed"]) == ([1, 2], 5, False, 9)
    assert request_body([1, 2], 5, 9, go_on=True)["cache_prompt"] is True
    assert fresh["stream"] is False, "no token waits for a client"


def entry(side: str, variant: str, *, decode: float, prefill: float, number: int = 0, regime: str = "50") -> dict:
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
        "model": "S1", "regime": regime, "round": number, "side": side, "variant": variant, "cap_bytes": 10,
        "drive_gbps": 1.0, "bus_gbps": 40.0, "when": "2026-01-01", "peak_bytes": 9, "measured": found,
    }  # fmt: skip


def test_figures_are_medians_and_the_peers_best_lasting_mode():
    entries = [
        *(entry("ours", LOSSLESS, decode=rate, prefill=60, number=n) for n, rate in enumerate((19, 20, 30))),
        *(entry("ours", HOBBIT, decode=rate, prefill=60, number=n) for n, rate in enumerate((40, 39, 41))),
        *(entry("peer", "mmap", decode=rate, prefill=30, number=n) for n, rate in enumerate((4, 5, 9))),
        *(entry("peer", "mmap+ra512", decode=3, prefill=40, number=n) for n in range(3)),
        entry("peer", "mmap+ra2048", decode=7, prefill=10),
        {"model": "S1", "regime": "50", "round": 0, "side": "peer", "variant": "dio", "cap_bytes": 10, "error": "no"},
    ]
    (row,) = rows(entries)
    assert row["peer"]["decode"]["mode"] == "mmap", "one lucky round of a mode that was dropped does not count"
    assert row["peer"]["decode"]["tok_s"] == 5
    assert row["peer"]["prefill"]["mode"] == "mmap+ra512"
    assert row["lossless"]["decode"]["tok_s"] == pytest.approx(20)
    assert row["lossless"]["decode"]["against_peer"] == pytest.approx(4)
    assert row["lossless"]["prefill"]["against_peer"] == pytest.approx(1.5)
    assert row["hobbit"]["against_lossless"] == pytest.approx(2)
    assert row["lossless"]["share_of_limit"] == pytest.approx(0.8), "40 MB a token at 1 GB/s are 40 ms of 50"
    assert row["lossless"]["limited_by"] == "drive"
    assert row["lossless"]["share_of_drive"] == pytest.approx(0.9)
    assert row["lossless"]["other_percent"] == pytest.approx(5)
    assert row["modes"]["dio"]["error"] == "no"


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
    bad = {**entry("peer", "mmap", decode=1, prefill=1), "measured": None, "error": "killed"}
    results.append(path, {"machine": {}})
    results.append(path, good)
    results.append(path, bad)
    found = results.read(path)
    cells = [Cell("S1", "50", 0, "ours", LOSSLESS), Cell("S1", "50", 0, "peer", "mmap")]
    assert results.done(found) == set(cells)
    assert results.done(found, retry_before=len(found)) == {cells[0]}
    assert results.done([*found, bad], retry_before=len(found)) == set(cells), "failed again: not tried for ever"
    with open(path, "ab") as file:
        file.write(b'{"v":1,"model":"S1","reg')  # a crash
    assert results.read(path) == found
    results.append(path, good)
    assert len(results.read(path)) == len(found) + 1
    path.write_text('{"v":9}\n')
    with pytest.raises(SystemExit, match="version"):
        results.read(path)
    path.write_text('{"v"\n{"v":1}\n')
    with pytest.raises(SystemExit, match="line 1 is damaged"):
        results.read(path)


def test_the_page_keeps_what_is_around_its_markers():
    entries = [
        entry("ours", LOSSLESS, decode=20, prefill=60),
        entry("peer", "mmap", decode=5, prefill=30),
        json.loads(json.dumps({"machine": {"cpu": "C", "machine": "x86_64", "cpus": 2, "memory_bytes": 2**30,
                               "kernel": "L", "file_system": "ext4", "drive": {"name": "vda", "read_ahead_kib": 128}},
                               "versions": {"numpy": "2"}, "peer": "version: 1",
                               "settings": {"threads": 2, "tier": 4, "io_threads": 4}})),
    ]  # fmt: skip
    text = markdown(rows(entries), entries, "images/b.png")
    assert "| S1 | 50 % | 5.00 (mmap, 1) | 20.00 (1) | 4.00x | - | - | - | 30.0 (mmap, 1) | 60.0 (1) | 2.00x |" in text
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
    args = run.parser().parse_args(["--peer", "p", "--model", "S1", "c", "b", "g", "--out", str(tmp_path / "r.jsonl")])
    model = Model("S1", (), Path("t"), Path("b"), Path("g"), 1)
    first = run.policy_of(model, results.read(args.out), args)
    again = run.policy_of(model, results.read(args.out), args)
    assert first == again == "hobbit:t1=0.5,t2=0.9"
    assert len(calls) == 1


def test_progress_lines_say_what_came_of_a_cell():
    good = entry("peer", "mmap", decode=5, prefill=30)
    cell = results.cell_of(good)
    assert "S1 50 % round 0 peer mmap: decode 5.00 tok/s, prefill 30.0 (cold 15.0) tok/s, 40.0 MB" in run.line(
        cell, good, 1, 9
    )
    assert "FAILED: does not fit" in run.line(cell, {"error": "does not fit"}, 1, 9)
