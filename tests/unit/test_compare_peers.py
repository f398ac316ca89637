"""benchmarks/compare: what a peer is asked, and what is made of its answers."""

from __future__ import annotations

import json
from pathlib import Path

import fake_llama_server as fake
import pytest

from benchmarks.compare import bigmoeonedge
from benchmarks.compare.command_peer import checked_stages
from benchmarks.compare.figures import read_per_token
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
from benchmarks.compare.workload import (
    HOBBIT,
    LOSSLESS,
    MODES,
    RESIDENT,
    Model,
    cells_of_round,
)

OLD_HELP = "--no-mmap   do not memory-map model\n-nr, --no-repack  disable weight repacking\n--mlock  force system\n"


LLAMA = "llama.cpp"
HERE = "C, 2 cores, avx2"


def mode(name: str):
    return next(m for m in MODES if m.name == name)


def test_cells_alternate_between_the_sides():
    modes = {LLAMA: [mode("mmap"), mode("mmap+ra512"), mode("dio")], "other": [mode("mmap")]}
    cells = cells_of_round("S1", "50", 2, modes, HERE, hobbit=True)
    assert [(c.side, c.variant) for c in cells] == [
        ("ours", LOSSLESS), (LLAMA, "mmap"), ("other", "mmap"), ("ours", HOBBIT), (LLAMA, "mmap+ra512"), (LLAMA, "dio"),
    ]  # fmt: skip
    assert {c.machine for c in cells} == {HERE}
    resident = cells_of_round("S1", RESIDENT, 0, {LLAMA: [mode("mmap")]}, HERE, hobbit=True)
    assert all(c.variant != HOBBIT for c in resident)


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
