"""benchmarks/compare without peers: plan of cells, parsing of recorded answers, results file, figures, page."""

from __future__ import annotations

import json
from pathlib import Path

import fake_llama_server as fake
import pytest

from benchmarks.compare import bigmoeonedge, results, run
from benchmarks.compare.command_peer import checked_stages
from benchmarks.compare.figures import limited_by, limits_ms, read_per_token, rows, share_of_limit
from benchmarks.compare.fio import arguments, fio_gbps, read_rate
from benchmarks.compare.kinds import open_peer, open_peers
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


LLAMA = "llama.cpp"
MACHINE = {"cpu": "C", "cpus": 2, "isa": "avx2"}
HERE = "C, 2 cores, avx2"


def mode(name: str):
    return next(m for m in MODES if m.name == name)


def test_caps_are_shares_of_the_peers_file():
    model = Model("S1", (), Path("t"), Path("b"), Path("g"), 1_000_001)
    assert cap_bytes(model, RESIDENT) is None
    assert [cap_bytes(model, regime) for regime in CAPS] == [750_000, 500_000, 350_000, 250_000]


def test_cells_alternate_between_the_sides():
    modes = {LLAMA: [mode("mmap"), mode("mmap+ra512"), mode("dio")], "other": [mode("mmap")]}
    cells = cells_of_round("S1", "50", 2, modes, HERE, hobbit=True)
    assert [(c.side, c.variant) for c in cells] == [
        ("ours", LOSSLESS), (LLAMA, "mmap"), ("other", "mmap"), ("ours", HOBBIT), (LLAMA, "mmap+ra512"), (LLAMA, "dio"),
    ]  # fmt: skip
    assert {c.machine for c in cells} == {HERE}
    resident = cells_of_round("S1", RESIDENT, 0, {LLAMA: [mode("mmap")]}, HERE, hobbit=True)
    assert all(c.variant != HOBBIT for c in resident)


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
    cells = results.done([entry("ours", LOSSLESS, decode=10, prefill=60)])
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
    assert results.done(found) == set(cells)
    assert results.done(found, retry_before=len(found)) == {cells[0]}
    assert results.done([*found, bad], retry_before=len(found)) == set(cells), "failed again: not tried for ever"
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


def test_peers_are_named_by_kind_and_path(tmp_path):
    for text in ("llama.cpp", "vllm=/x", "llama.cpp="):
        with pytest.raises(SystemExit, match="KIND=PATH with KIND one of llama.cpp, bigmoeonedge, command"):
            open_peer(text)
    with pytest.raises(SystemExit, match="llama-server"):
        open_peer(f"llama.cpp={tmp_path}")
    with pytest.raises(SystemExit, match="bmoe-cli"):
        open_peer(f"bigmoeonedge={tmp_path}")
    with pytest.raises(SystemExit, match="name, version and modes"):
        open_peer(f"command={tmp_path / 'none'}")
    adapter = tmp_path / "adapter"
    adapter.write_text(
        """#!/bin/sh\necho '{"name": "mine", "version": "3", "modes": {"resident": ["a"], "cap": []}}'\n"""
    )
    adapter.chmod(0o755)
    (mine,) = open_peers([f"command={adapter}"])
    assert (mine.name, mine.version, [m.name for m in mine.modes(RESIDENT)], mine.modes("50")) == (
        "mine",
        "3",
        ["a"],
        [],
    )
    with pytest.raises(SystemExit, match="mine is named twice"):
        open_peers([f"command={adapter}"] * 2)


def test_what_an_adapter_prints_is_checked():
    good = {"decode": {"n": 64, "ms": 3.5, "read_bytes": 8}, "prefill_cold": {"n": 128, "ms": 2}}
    assert checked_stages(json.dumps(good)) == {
        "load_ms": 0.0, "decode": {"n": 64, "ms": 3.5, "read_bytes": 8},
        "prefill_cold": {"n": 128, "ms": 2.0, "read_bytes": None},
    }  # fmt: skip
    for bad in ("", "[]", "{}", json.dumps(good | {"decode": None}), json.dumps(good | {"prefill_cold": {"n": "x"}})):
        with pytest.raises(PeerError, match="three stages"):
            checked_stages(bad)
    with pytest.raises(PeerError, match="decode: expected 64 tokens in more than 0 ms, got 63 in 3.5"):
        checked_stages(json.dumps(good | {"decode": {"n": 63, "ms": 3.5}}))


HEAD = "step,steps,wall_ms,io_ms,compute_ms,read_bytes,cache_hit_pct"


def bmoe_run(**changed: object) -> tuple[str, str]:
    """What BigMoeOnEdge prints for a prompt with 129 tokens after it and one with 1, as recorded from version 0.19."""
    done = {"id": 1, "tokens": 129, "prefill_s": 0.5, "cache_hit_pct": 54.2, "n_prompt": 128, "text": "a\nb"} | changed
    last = {"id": 2, "tokens": 1, "prefill_s": 0.25, "cache_hit_pct": 55.0, "n_prompt": 128, "text": ""}
    said = ['BMOE_READY {"load_s":1.250,"arch":"qwen3moe"}', "BMOE_BEGIN {}", "noise", "BMOE_DONE " + json.dumps(done)]
    rows = [f"{i},129,{10 if i < 65 else 20},1,1,{1000 if i < 65 else 3000},50" for i in range(129)]
    table = [
        "# bmoe_metrics v2",
        "# engine=0.19.0",
        HEAD,
        *rows,
        "# summary tokens=129",
        "0,1,99,1,1,7,50",
        "# summary",
    ]
    return "\n".join([*said, "BMOE_DONE " + json.dumps(last)]), "\n".join(table)


def test_stages_of_what_bigmoeonedge_prints():
    said, table = bmoe_run()
    assert bigmoeonedge.stages(said, table, [128, 128], [129, 1]) == {
        "load_ms": 1250.0, "prefill_cold": {"n": 128, "ms": 500.0, "read_bytes": None},
        "decode": {"n": 64, "ms": 64 * 20.0, "read_bytes": 64 * 3000},
        "prefill": {"n": 128, "ms": 250.0, "read_bytes": None}, "cache_hit_percent": 54.2,
    }  # fmt: skip
    with pytest.raises(PeerError, match=r"expected \(prompt, generated\) tokens .*got \[\(128, 40\)"):
        bigmoeonedge.stages(*bmoe_run(tokens=40), [128, 128], [129, 1])
    with pytest.raises(PeerError, match="ended after 0 of 2 prompts"):
        bigmoeonedge.stages("", "", [128, 128], [129, 1])
    with pytest.raises(PeerError, match="cache too small"):
        bigmoeonedge.stages('BMOE_ERROR {"id":0,"fatal":true,"msg":"cache too small"}', "", [128], [1])
    with pytest.raises(PeerError, match="a row for each of 130 tokens, got 0"):
        bigmoeonedge.stages(said, HEAD, [128, 128], [129, 1])


def test_the_command_line_of_bigmoeonedge():
    model = Model("S1", (), Path("t"), Path("b"), Path("m.gguf"), 4 << 20)
    modes = open_modes("50")
    assert [m.name for m in modes][:1] == ["overlap+cache80"]
    argv = bigmoeonedge.command(Path("p/bmoe-cli"), model, modes[0], "50", 7, Path("t.csv"))
    for flag, value in (("-t", "2"), ("--cache-mb", "1"), ("--temp", "1"), ("--top-k", "0"), ("--seed", "7")):
        assert argv[argv.index(flag) + 1] == value
    assert "--overlap" in argv
    serial = bigmoeonedge.command(Path("p"), model, open_modes("50")[-1], RESIDENT, 7, Path("t.csv"))
    assert "--overlap" not in serial
    lines = bigmoeonedge.requests(["one", "two"], [129, 1]).splitlines()
    assert [json.loads(line).get("n_predict") for line in lines] == [129, 1, None]


def open_modes(regime: str):
    return bigmoeonedge.BigMoeOnEdge.modes(None, regime)


def test_fio_is_asked_for_the_same_reads():
    argv = arguments([Path("/a"), Path("/b:c")], block_bytes=4096, depth=8, seconds=0.5)
    assert {"--filename=/a:/b\\:c", "--bs=4096", "--iodepth=8", "--direct=1", "--readonly", "--runtime=0.5"} <= set(
        argv
    )
    assert read_rate('fio: note\n{"jobs": [{"read": {"bw_bytes": 2300000000}}]}') == 2.3
    for text in ("", "fio: failed", '{"jobs": []}', '{"jobs": [{"read": {"bw_bytes": 0}}]}'):
        assert read_rate(text) is None
    assert fio_gbps(None, [Path("/a")], block_bytes=4096, depth=8) is None
