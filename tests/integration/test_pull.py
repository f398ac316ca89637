"""`hobbit pull`: the same bytes whatever happens on the way, only the tiers asked for, never half of a bundle."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest
from bundle_server import Behaviour, chunked, cut, serving, silent, status
from conftest import REPO
from full_drives import small_drive
from patience import until
from transfers import QUICK, contents, pulled, small_bundle

from edge_runtime import Engine, SamplingParams
from edge_runtime.__main__ import main
from edge_runtime.base.errors import BudgetError, BundleError, ConfigError, ExpertReadError, HubError
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.cut import choose_tiers, cut_manifest
from edge_runtime.bundle.verification import check_bundle, unlisted_files
from edge_runtime.transfer import growing
from edge_runtime.transfer.model_folder import ModelFolder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("pull"))


def test_all_tiers_are_the_same_files(bundle, tmp_path):
    with serving(bundle.parent) as server:
        done = pulled(f"{server.url}/{bundle.name}/", tmp_path, "org/m")
        assert contents(tmp_path / "org/m") == contents(bundle)
        assert (done.was_there, done.resumed_bytes) == (False, 0)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["org"], "nothing else is left"
        asked = len(server.requests)
        assert pulled(f"{server.url}/{bundle.name}", tmp_path, "org/m").was_there
        assert len(server.requests) == asked + 1, "the manifest alone"


def test_a_folder_is_an_origin_too(bundle, tmp_path):
    assert pulled(bundle, tmp_path, tiers="2").tiers == [2]
    check_bundle(Bundle.open(tmp_path / "m"))


@pytest.mark.parametrize("tiers", ["8", "6", "4", "2", "4,bf16"])
def test_fewer_tiers_are_the_bundle_an_export_of_them_writes(bundle, tmp_path, tiers):
    """File by file, but for the errors of the deeper tiers that stay in the calibration."""
    other = small_bundle(tmp_path, tiers)
    pulled(bundle, tmp_path, tiers=tiers)
    found, expected = contents(tmp_path / "m"), contents(other)
    assert found.keys() == expected.keys()
    differ = {name for name in found if found[name] != expected[name]}
    assert differ == {"calibration/experts.json", "manifest.json"}
    manifest = Bundle.open(tmp_path / "m").manifest
    assert manifest.experts == Bundle.open(other).manifest.experts
    assert unlisted_files(Bundle.open(tmp_path / "m")) == []
    check_bundle(Bundle.open(tmp_path / "m"))


def test_planes_nobody_asked_for_are_not_sent(bundle, tmp_path):
    whole = Bundle.open(bundle).manifest
    with serving(bundle) as server:
        done = pulled(server.url, tmp_path, tiers="4")
        asked = [(name, ranges) for _, name, ranges in server.requests if name.endswith(".hbx")]
    assert not [name for name, _ in asked if name.endswith(".bf16.hbx")]
    headers = sum(header_bytes(bundle, p.name) for p in whole.parts if p.role == "experts")
    assert server.sent_bytes == done.received_bytes + headers + (bundle / "manifest.json").stat().st_size
    assert done.received_bytes < done.bytes
    assert done.bytes == sum(p.bytes for p in Bundle.open(tmp_path / "m").manifest.parts)


def header_bytes(bundle: Path, name: str) -> int:
    return int.from_bytes((bundle / name).read_bytes()[40:48], "little")


def test_a_cut_of_a_cut_is_a_cut(bundle):
    whole = manifest_file.read(bundle)
    assert cut_manifest(cut_manifest(whole, [2, 4]), [2]) == cut_manifest(whole, [2])
    assert cut_manifest(whole, whole.experts.tiers) is whole


@pytest.mark.parametrize(
    ("text", "tiers"),
    [("8", [2, 4, 6, 8]), ("4", [2, 4]), ("4,8", [4, 8]), ("bf16,4", [2, 4, 16]), ("2", [2]), ("8, 6", [6, 8])],
)
def test_tiers_are_said_as_to_the_exporter(bundle, text, tiers):
    assert choose_tiers(manifest_file.read(bundle), text) == tiers


@pytest.mark.parametrize("text", ["3", "bf16", "", "8,x", "16"])
def test_tiers_that_are_none_are_refused(bundle, text, tmp_path):
    with pytest.raises(ConfigError, match="tiers: expected"):
        pulled(bundle, tmp_path, tiers=text)


def test_a_bundle_older_than_cuts_comes_whole_or_not(bundle, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    data = json.loads((bundle / "manifest.json").read_text())
    for part in data["parts"]:
        part.pop("cuts", None)
        (old / part["name"]).parent.mkdir(exist_ok=True, parents=True)
        os.link(bundle / part["name"], old / part["name"])
    data["bundle_id"] = manifest_file.digest(data)
    (old / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(BundleError, match="is older than cuts. Take all its tiers"):
        pulled(old, tmp_path / "models", tiers="4")
    pulled(old, tmp_path / "models")
    assert contents(tmp_path / "models/m") == contents(old)


class Stop(KeyboardInterrupt):
    """Ctrl-C of a test."""


@pytest.mark.parametrize("tiers", [None, "4"])
def test_interrupted_at_random_points_it_ends_with_the_same_bytes(bundle, tmp_path, tiers):
    """25 points for each form of a pull: of all tiers, and of some."""
    rng = random.Random(18)
    pulled(bundle, tmp_path, "whole", tiers=tiers)
    expected = contents(tmp_path / "whole")
    total = sum(map(len, expected.values()))
    with serving(bundle) as server:
        for number in range(25):
            stop_at, seen, name = rng.randrange(1, total), 0, f"m{number}"

            def progress(more: int, _: int) -> None:
                nonlocal seen
                seen += more
                if seen >= stop_at:  # noqa: B023 - called within the round
                    raise Stop

            with pytest.raises(Stop):
                pulled(server.url, tmp_path, name, tiers=tiers, progress=progress)
            assert not (tmp_path / name).exists(), "not even a part of it is visible"
            models = ModelFolder(tmp_path)
            assert [pull.name for pull in models.unfinished()] == [name]
            done = pulled(server.url, tmp_path, name, tiers=tiers)
            assert contents(tmp_path / name) == expected
            assert list(models.unfinished()) == []
            assert done.received_bytes + done.resumed_bytes <= done.bytes


def test_killed_again_and_again_it_ends_with_the_same_bytes(bundle, tmp_path):
    command = [sys.executable, "-m", "edge_runtime", "pull", "--models", str(tmp_path), "--name", "m", "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with serving(bundle, Behaviour(pause_s=0.02)) as server:
        kills = 0
        while kills < 6:
            before = server.sent_bytes
            process = subprocess.Popen([*command, server.url], env=environment, stdout=subprocess.PIPE, text=True)
            until(lambda: server.sent_bytes > before + 100_000 or process.poll() is not None)  # noqa: B023
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
            process.communicate()
            assert not (tmp_path / "m").exists() or contents(tmp_path / "m") == contents(bundle)
            if (tmp_path / "m").exists():
                break
        server.behaviour.pause_s = 0
        done = subprocess.run([*command, server.url], env=environment, capture_output=True, text=True, check=True)
    assert kills >= 2
    assert json.loads(done.stdout)["bundle_id"] == manifest_file.read(bundle).bundle_id
    assert contents(tmp_path / "m") == contents(bundle)


def test_a_slow_server_is_waited_for_to_the_end(tmp_path):
    """Half a second before every 64 KiB, until the last byte: a file takes longer than a silent server is waited for."""
    bundle = small_bundle(tmp_path / "source", "8", experts=24, layers=1)
    patience = replace(QUICK, timeout_s=2)
    with serving(bundle, Behaviour()) as server:
        pulled(server.url, tmp_path / "quick")
        expected = sorted(server.requests)
    with serving(bundle, Behaviour(pause_s=0.5)) as server:
        started = time.monotonic()
        done = pulled(server.url, tmp_path / "models", retrying=patience)
        took = time.monotonic() - started
    largest = max(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    assert took > 0.5 * largest / (64 << 10) > patience.timeout_s
    assert contents(tmp_path / "models/m") == contents(bundle)
    assert done.resumed_bytes == 0
    assert sorted(server.requests) == expected, "nothing was given up and asked for again"


def test_connections_that_break_and_servers_that_are_busy(bundle, tmp_path):
    part = "experts/layer_000.hbx"
    faults = {
        "manifest.json": deque([status(503), cut(100), status(429, Retry_After="0")]),
        part: deque([status(500), cut(5), cut(0), cut(4096), cut(20_000), status(408), cut(33_333)]),
        "trunk/embed.bin": deque([cut(1), cut(2), cut(3), status(502), status(504)]),
    }
    with serving(bundle, Behaviour(faults=faults)) as server:
        pulled(server.url, tmp_path)
        assert not any(server.behaviour.faults.values()), "every one of them happened"
    assert contents(tmp_path / "m") == contents(bundle)


def test_a_server_that_stays_busy_is_given_up_and_what_came_is_kept(bundle, tmp_path):
    behaviour = Behaviour(always={"trunk/head.data": status(503)})
    with serving(bundle, behaviour) as server:
        with pytest.raises(HubError, match=r"trunk/head.data: the server said 503, 4 times in a row. Run the same"):
            pulled(server.url, tmp_path, connections=1)
        behaviour.always.clear()
        before = server.sent_bytes
        done = pulled(server.url, tmp_path)
    assert done.resumed_bytes > 0
    assert server.sent_bytes - before < done.bytes
    assert contents(tmp_path / "m") == contents(bundle)


def test_a_server_that_answers_nobody(tmp_path):
    with pytest.raises(HubError, match="no answer from 127.0.0.1: .*refused, 4 times in a row"):
        pulled("http://127.0.0.1:9/bundle", tmp_path)


@pytest.mark.parametrize("code", [404, 410])
def test_what_is_not_there_is_said_at_once(bundle, tmp_path, code):
    with serving(bundle, Behaviour(always={"trunk/embed.bin": status(code)})) as server:
        with pytest.raises(ConfigError, match=rf"trunk/embed.bin: the server has no such file \({code}\)"):
            pulled(server.url, tmp_path)
        with pytest.raises(ConfigError, match=r"nowhere: manifest.json: the server has no such file \(404\)"):
            pulled(f"{server.url}/nowhere", tmp_path)
        server.behaviour.always["manifest.json"] = status(418)
        with pytest.raises(HubError, match="the server said 418"):
            pulled(server.url, tmp_path)


def test_a_server_without_ranges_sends_whole_bundles_only(bundle, tmp_path):
    faults = {"experts/layer_001.hbx": deque([cut(30_000), cut(60_000)]), "trunk/head.data": deque([cut(1000)])}
    with serving(bundle, Behaviour(ranges=False, faults=faults)) as server:
        with pytest.raises(HubError, match="cannot send parts of files, so that tiers cannot be left out"):
            pulled(server.url, tmp_path, tiers="4")
        pulled(server.url, tmp_path)
        assert not any(server.behaviour.faults.values())
    assert contents(tmp_path / "m") == contents(bundle)


@pytest.mark.parametrize("tiers", [None, "4"])
def test_bodies_without_a_length(bundle, tmp_path, tiers):
    with serving(bundle, Behaviour(always={"": chunked})) as server:
        pulled(server.url, tmp_path, tiers=tiers)
    pulled(bundle, tmp_path, "same", tiers=tiers)
    assert contents(tmp_path / "m") == contents(tmp_path / "same")


def test_a_server_that_falls_silent_is_asked_again(bundle, tmp_path):
    faults = {"trunk/embed.bin": deque([silent(2), silent(2)])}
    with serving(bundle, Behaviour(faults=faults)) as server:
        pulled(server.url, tmp_path, retrying=replace(QUICK, timeout_s=0.5))
    assert contents(tmp_path / "m") == contents(bundle)


def test_ctrl_c_ends_a_pull_soon_and_the_next_goes_on(bundle, tmp_path):
    command = [sys.executable, "-m", "edge_runtime", "pull", "--models", str(tmp_path), "--name", "m"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    behaviour = Behaviour(always={"trunk/head.data": silent(60)})
    with serving(bundle, behaviour) as server:
        process = subprocess.Popen([*command, server.url], env=environment, stderr=subprocess.PIPE, text=True)
        until(lambda: "trunk/head.data" in [name for _, name, _ in server.requests])
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        assert "Traceback" not in err
        assert not (tmp_path / "m").exists()
        behaviour.always.clear()
        assert pulled(server.url, tmp_path).resumed_bytes > 0
    assert contents(tmp_path / "m") == contents(bundle)


def test_redirects_are_followed_and_passwords_stay_where_they_belong(bundle, tmp_path):
    with (
        serving(bundle) as store,
        serving(bundle, Behaviour(redirects_to=store.url, needs="Basic bWU6c2VjcmV0")) as front,
    ):
        done = pulled(front.url.replace("//", "//me:secret@"), tmp_path, tiers="2")
        with pytest.raises(ConfigError, match=r"refused access \(401\)"):
            pulled(front.url, tmp_path, "other")
    assert set(store.tokens) == {""}
    assert done.tiers == [2]
    assert len([r for r in front.requests if r[1].endswith(".hbx")]) <= 2 * 4, "where a file is, is remembered"


def test_a_bundle_can_be_pinned(bundle, tmp_path):
    right = manifest_file.read(bundle).bundle_id
    for wrong in ("0" * 64, right[:7], right + "0"):
        with pytest.raises(BundleError, match="expected the bundle"):
            pulled(bundle, tmp_path, bundle_id=wrong)
    pulled(bundle, tmp_path, bundle_id=right[:8], tiers="2")


def test_a_name_that_is_taken(bundle, tmp_path):
    pulled(bundle, tmp_path, tiers="2")
    before = contents(tmp_path / "m")
    with pytest.raises(ConfigError, match=r"is taken by the bundle [0-9a-f]{12}, tiers 2. Choose another name"):
        pulled(bundle, tmp_path, tiers="4")
    assert contents(tmp_path / "m") == before
    assert pulled(bundle, tmp_path, tiers="4", replace=True).tiers == [2, 4]
    check_bundle(Bundle.open(tmp_path / "m"))
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_one_pull_of_a_bundle_at_a_time(bundle, tmp_path):
    folder = ModelFolder(tmp_path)
    with folder.staging("m", manifest_file.read(bundle).bundle_id):
        with pytest.raises(ConfigError, match="another process is pulling this"):
            pulled(bundle, tmp_path)
        with pytest.raises(ConfigError, match="another process is pulling this"):
            folder.remove("m")
    pulled(bundle, tmp_path)


def test_a_full_drive_is_known_in_advance(bundle, tmp_path, monkeypatch):
    class Usage:
        free = 1000

    monkeypatch.setattr(growing.shutil, "disk_usage", lambda path: Usage)
    with serving(bundle) as server:
        with pytest.raises(
            BudgetError, match=r"the bundle needs \S+ \S+ more \(\d+ bytes\), the drive has .*1000 bytes"
        ):
            pulled(server.url, tmp_path)
        assert [name for _, name, _ in server.requests] == ["manifest.json"]


@pytest.fixture
def drive(tmp_path):
    with small_drive(tmp_path / "drive", "600k") as mount:
        yield mount


def test_a_drive_that_fills_up_and_then_has_room(bundle, drive, monkeypatch):
    monkeypatch.setattr("edge_runtime.transfer.pull.check_space", lambda folder, needed: None)
    with serving(bundle) as server:
        with pytest.raises(BudgetError, match=r"the drive is full: the bundle needs \d+ bytes in all, \d+ are free"):
            pulled(server.url, drive)
        assert not (drive / "m").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", drive], check=True)
        assert pulled(server.url, drive).resumed_bytes > 100_000
    assert contents(drive / "m") == contents(bundle)


def test_what_an_earlier_run_left_damaged_is_found(bundle, tmp_path):
    """A machine that lost power: bytes that were never written, in the middle and at the end."""
    with serving(bundle, Behaviour(always={"trunk/head.data": status(404)})) as server:
        with pytest.raises(ConfigError):
            pulled(server.url, tmp_path, connections=1)
        (staging,) = [pull.path / "bundle" for pull in ModelFolder(tmp_path).unfinished()]
        whole = (bundle / "experts/layer_001.hbx").read_bytes()
        (staging / "experts/layer_001.hbx").unlink(missing_ok=True)
        damaged = bytearray(whole[: len(whole) // 2])
        damaged[len(damaged) // 2 :] = bytes(len(damaged) - len(damaged) // 2)
        (staging / "experts/layer_001.hbx.part").write_bytes(damaged)
        (staging / "trunk/embed.bin").unlink(missing_ok=True)
        (staging / "trunk/embed.bin.part").write_bytes(bytes(1000))
        (staging / "experts/stranger.bin").write_bytes(b"x")
        server.behaviour.always.clear()
        pulled(server.url, tmp_path)
    assert contents(tmp_path / "m") == contents(bundle)


def test_a_model_runs_by_its_name_with_the_tokens_of_the_whole_bundle(exported, tmp_path, capsys):
    whole = exported(REPO / "examples/tiny-moe", "--tiers", "8,6,4,2", "--trunk", "int8")
    pulled(whole, tmp_path, "org/tiny", tiers="4")
    flags = ["-p", "import", "-n", "12", "--temperature", "0", "--memory", "1GiB", "--json", "--tier", "4"]

    def tokens(*words: str) -> list[int]:
        assert main(["run", *words, *flags]) == 0
        return list(json.loads(capsys.readouterr().out)["token_ids"])

    assert tokens("org/tiny", "--models", str(tmp_path)) == tokens(str(whole))
    assert main(["verify", "org/tiny", "--models", str(tmp_path), "--memory", "1GiB"]) == 0
    assert main(["run", "org/tinny", "--models", str(tmp_path), *flags]) == 78
    assert "Did you mean 'org/tiny'?" in capsys.readouterr().err


def test_a_model_that_is_deleted_while_it_runs_is_said_at_the_next_request(bundle, tmp_path):
    pulled(bundle, tmp_path, tiers="4")
    params = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
    with Engine.open(tmp_path / "m", memory="1GiB", expert_memory="100KiB", self_check=False) as engine:
        engine.generate([1, 2, 3], params)
        ModelFolder(tmp_path).remove("m")
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(ExpertReadError, match="removed while in use"):
            engine.generate([1, 2, 3], params)
