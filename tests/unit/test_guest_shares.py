"""Memory's shares in an emulated machine: what is run again, and what counts as right. No machine is booted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

GUEST = Path(__file__).parents[1] / "guest"
RUN = {"share_percent": 60, "limit_bytes": 1000, "exit_code": 0, "oom_kills": 0, "peak_rss_bytes": 900}


@pytest.fixture
def all_shares(monkeypatch):
    monkeypatch.syspath_prepend(str(GUEST))
    for name in ("all_shares", "shares"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import all_shares

    return all_shares


def test_runs_go_on_where_they_stopped(all_shares, tmp_path):
    out = tmp_path / "shares.jsonl"
    assert all_shares.left(all_shares.runs_of(out), 2) == {60: 2, 40: 2, 25: 2}
    for text in ('{"share_percent": 60}', '{"share_per[   3.1] kernel: ...', '{"share_percent": 25}'):
        all_shares.note(out, text)
    with open(out, "a") as file:
        file.write('{"share_percent": 40')  # cut off: that run is made again
    assert all_shares.left(all_shares.runs_of(out), 2) == {60: 1, 40: 2, 25: 1}
    all_shares.note(out, '{"share_percent": 40}')
    assert all_shares.left(all_shares.runs_of(out), 1) == {}


def test_shares_are_run_in_turn(all_shares):
    import shares

    assert [*shares.interleaved({60: 1, 40: 3, 25: 2})] == [60, 40, 25, 40, 25, 40]
    assert [*shares.interleaved({})] == []


@pytest.mark.parametrize(
    ("change", "right"),
    [({}, True), ({"peak_rss_bytes": 850}, True), ({"peak_rss_bytes": 849}, False), ({"peak_rss_bytes": 1001}, False),
     ({"oom_kills": 1}, False), ({"exit_code": 137}, False)],
)  # fmt: skip
def test_a_run_is_right_if_it_finished_and_used_what_it_was_given(all_shares, change, right):
    assert all_shares.is_right(RUN | change) is right


def test_machines_are_booted_until_all_is_run(all_shares, tmp_path, monkeypatch, capsys):
    out, asked = tmp_path / "shares.jsonl", []

    def boot(args, runs):
        asked.append(dict(runs))
        for share in [*runs][: 4 - len(asked)]:
            all_shares.note(out, f'{{"share_percent": {share}, "limit_bytes": 100, "peak_rss_bytes": 90, '
                                 '"exit_code": 0, "oom_kills": 0}')  # fmt: skip
        return 1

    monkeypatch.setattr(all_shares, "boot", boot)
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path), "--deb", "a", "--runs", "2", "--out", str(out)])
    assert all_shares.main() == 0
    assert asked == [{60: 2, 40: 2, 25: 2}, {60: 1, 40: 1, 25: 1}, {25: 1}]
    assert "25 %: 2 of 2 runs right, 0 killed, used 90.0 to 90.0 %" in capsys.readouterr().out
    out.unlink()
    monkeypatch.setattr(all_shares, "boot", lambda args, runs: 125)
    assert all_shares.main() == 1, "a machine that comes to nothing is not booted for ever"
