"""`hobbit plan --boards`: the same planner as the engine's, for boards that are not here."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from edge_runtime.__main__ import main
from edge_runtime.base.sizes import GIB
from edge_runtime.config.profile_values import Setting
from edge_runtime.config.profiles import load_profile, profile_names

FLAGS = ("--tier", "4", "--expert-memory", "2MiB", "--context", "256")


@pytest.fixture
def boards(model_bundle, capsys):
    def ask(*flags: str) -> dict[str, dict]:
        assert main(["plan", str(model_bundle), "--boards", "--json", *flags]) == 0
        return {row["profile"]: row for row in json.loads(capsys.readouterr().out)["boards"]}

    return ask


def test_every_profile_has_a_row_and_the_smallest_board_comes_first(boards, model_bundle, capsys):
    rows = boards(*FLAGS)
    assert set(rows) == set(profile_names())
    assert next(iter(rows)) == "orin-nano-4gb"
    assert [name for name, row in rows.items() if row["is_this_machine"]]
    assert main(["plan", str(model_bundle), "--boards", *FLAGS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(rows) + 2
    assert [line.split()[0] for line in lines[1:-1]] == list(rows)
    assert "assumed, this machine" in "".join(lines)


def test_a_row_is_what_plan_says_with_that_profile(boards, model_bundle, capsys):
    """On a board with that memory the engine would plan the same; the estimate takes the board's cores and rates."""
    row, profile = boards(*FLAGS)["orin-nano-8gb"], load_profile("orin-nano-8gb")
    assert row["budget_bytes"] == int(7.2 * GIB) - GIB
    memory = str(row["budget_bytes"])
    command = ["plan", str(model_bundle), "--profile", profile.name, "--memory", memory, "--json", *FLAGS]
    assert main([*command, "--threads", "6"]) == 0
    alone = json.loads(capsys.readouterr().out)
    for key in ("tier", "context", "arena_bytes", "cache_share", "speed"):
        assert row[key] == alone[key], key
    assert row["speed"]["threads"] == profile.cores == 6
    assert (row["verdict"], row["basis"]) == ("fits", "assumed")
    assert row["rates"]["drive"]["origin"].startswith("from profile orin-nano-8gb, assumed: this project's guess")


def test_what_does_not_fit_and_what_is_not_known(boards, model_bundle, capsys):
    rows = boards("--memory", "40MiB", "--context", "256")
    assert {row["verdict"] for name, row in rows.items() if "orin" in name} == {"does not fit"}
    row = rows["orin-nano-8gb"]
    assert (row["arena_bytes"], row["cache_share"], row["speed"]) == (None, None, None)
    assert 40 << 20 < row["floor_bytes"] < row["all_resident_bytes"]
    assert (rows["generic"]["verdict"], rows["generic"]["budget_bytes"]) == ("unknown", None)
    assert main(["plan", str(model_bundle), "--boards", "--memory", "40MiB"]) == 0
    text = capsys.readouterr().out
    assert "does not fit: needs " in text
    assert "not stated" in text


def test_a_profile_of_ones_own_is_a_row_with_what_was_measured(boards, tmp_path):
    known = Setting(2.5, "measured", when="2026-11-29", how="hobbit tune bundle")
    facts = {**load_profile("rk3588").facts, "drive_read_gb_s": known, "memory_read_gb_s": replace(known, value=20.5)}
    (tmp_path / "mine.yaml").write_text(replace(load_profile("rk3588"), name="mine", facts=facts).to_yaml())
    row = boards("--profile", str(tmp_path / "mine.yaml"), *FLAGS)["mine"]
    assert (row["basis"], row["rates"]["drive"]["gb_s"]) == ("measured", 2.5)
    assert row["rates"]["drive"]["origin"] == "from profile mine, measured: 2026-11-29 by hobbit tune bundle"
    assert row["speed"]["threads"] == 4


def test_rates_of_this_machine_are_no_rates_of_others(model_bundle, capsys):
    assert main(["plan", str(model_bundle), "--boards", "--drive-gbps", "2"]) == 78
    assert "drive-gbps: it is a rate of this machine" in capsys.readouterr().err


def test_variables_hold_on_every_board(boards, monkeypatch):
    monkeypatch.setitem(os.environ, "HOBBIT_TIER", "2")
    assert {row["tier"] for row in boards("--context", "128").values()} == {2}
