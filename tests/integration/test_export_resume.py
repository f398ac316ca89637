"""An export may die at any moment; the same command goes on where it was and ends with the same bytes."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from patience import until
from synthetic import hobbit_export, qwen3_config, run_export, write_qwen3

from edge_runtime.base.errors import BudgetError, BundleError, ConfigError
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.manifest import Part
from hobbit_export.calibration import write_reference
from hobbit_export.exporter import export
from hobbit_export.journal import Journal, Step
from hobbit_export.options import ExportOptions
from hobbit_export.parts import publish
from hobbit_export.source import sample_sha256
from hobbit_export.workplace import is_complete, locked

FLAGS = ("--trunk", "int4", "--jobs", "1")
PART = Part("trunk/embed.bin", "embedding", 3, "ab" * 32, 7, None)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3(tmp_path_factory.mktemp("ck") / "small", qwen3_config(256, 256, 8, 6))


@pytest.fixture(scope="module")
def whole(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "bundle"
    assert run_export(checkpoint, "--out", out, *FLAGS)[0] == 0
    return contents(out)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def finished(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every part the journal says is done."""
    if not (out / "export.journal").exists():
        return {}
    lines = (out / "export.journal").read_bytes().split(b"\n")[1:-1]
    return stamps(out, [p["name"] for line in lines for p in json.loads(line)["parts"]])


def stamps(out: Path, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    return {n: ((out / n).stat().st_ino, (out / n).stat().st_mtime_ns) for n in names}


@pytest.mark.parametrize("seed", range(4))
def test_kill_at_random_points_then_resume(
    checkpoint: Path, whole: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    # on a busy machine an export may be over before it is killed: then another one is begun
    until(lambda: killed_until_complete(checkpoint, whole, Path(mkdtemp(dir=tmp_path)), rng) >= 2, "two kills")


def killed_until_complete(checkpoint: Path, whole: dict[str, bytes], folder: Path, rng: random.Random) -> int:
    """Export, killed at random points and resumed until it is complete; return how often it was killed."""
    out, kills = folder / "bundle", 0
    done: dict[str, tuple[int, int]] = {}
    while not is_complete(out):
        target = len(done) + rng.randrange(9)
        process = hobbit_export(checkpoint, "--out", out, *FLAGS)
        while process.poll() is None and len(finished(out)) < target:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.03)
        process.kill()
        process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)
        kills += process.returncode != 0
        assert stamps(out, done) == done  # what an earlier run finished was not written again
        if not (out / "manifest.json").exists() and out.exists():
            with pytest.raises(BundleError, match=r"unfinished|is missing, so this is not a bundle"):
                Bundle.open(out)
        done = finished(out)
    assert contents(out) == whole
    return kills


def test_what_goes_wrong_while_parts_are_synced_ends_the_export(
    checkpoint: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts are hashed and synced beside the next step: a failure there is reported, and nothing after it counts."""

    def full(bundle: Path, folder: Path, name: str, *rest: Any) -> Part:
        if name == "experts/layer_002.hbx":
            raise OSError(errno.ENOSPC, "No space left on device")
        return publish(bundle, folder, name, *rest)

    out = tmp_path / "bundle"
    monkeypatch.setattr("hobbit_export.runner.publish", full)
    with pytest.raises(BudgetError, match="the drive is full"):
        export(ExportOptions(checkpoint, out, trunk="int4"), quiet=True)
    names = {Path(name).name for name in finished(out) if name.startswith("experts/")}
    assert names == {"layer_000.hbx", "layer_001.hbx"}
    assert not (out / ".partial").exists()
    monkeypatch.undo()
    export(ExportOptions(checkpoint, out, trunk="int4"), quiet=True)
    # all but the reference logits, which depend on the BLAS threads of this process: the command sets its own
    found = contents(out)
    assert found.keys() == whole.keys()
    assert all(found[name] == data for name, data in whole.items() if name.startswith(("experts/", "trunk/")))


MEASURE_AND_DIE = """
import os, signal, sys
import hobbit_export.quality as quality
quality._Measurement.run = lambda self: os.kill(os.getpid(), signal.SIGKILL)
from hobbit_export.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_killed_while_it_measures_leaves_no_bundle(checkpoint: Path, tmp_path: Path) -> None:
    """The engine is running on what was exported so far; nobody else may take that for a bundle."""
    text, out = tmp_path / "text.txt", tmp_path / "bundle"
    text.write_text("Once upon a time there was a model.")
    flags = [str(checkpoint), "--out", str(out), *FLAGS, "--calibrate", str(text), "--no-self-check"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    died = subprocess.run(
        [sys.executable, "-c", MEASURE_AND_DIE, *flags], env=environment, capture_output=True, check=False
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert sorted(p.name for p in out.iterdir() if p.is_file()) == ["export.journal"]
    with pytest.raises(BundleError, match="unfinished"):
        Bundle.open(out)
    code, found, _ = run_export(*flags, "--json")
    assert (code, json.loads(found)["steps_run"]) == (0, 1)
    Bundle.open(out)
    assert not (out / "export.journal").exists()


def test_a_manifest_beside_a_journal_is_no_bundle_once_the_export_goes_on(
    checkpoint: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that died between the manifest and the end of the journal; the export goes on and ends the same."""
    out = tmp_path / "bundle"
    options = ExportOptions(checkpoint, out, trunk="int4")

    def die(journal: Journal) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "remove", die)
    with pytest.raises(KeyboardInterrupt):
        export(options, quiet=True)
    assert (out / "manifest.json").exists()
    monkeypatch.undo()

    def no_manifest(*arguments: Any) -> str:
        assert not (out / "manifest.json").exists()
        return sample_sha256(*arguments)

    monkeypatch.setattr("hobbit_export.exporter.sample_sha256", no_manifest)
    assert export(options, quiet=True).steps_run == 0
    assert contents(out) == whole


def test_damaged_part_is_made_again(checkpoint: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = interrupted(checkpoint, tmp_path)
    (out / "trunk/embed.bin").write_bytes(bytes((out / "trunk/embed.bin").stat().st_size))  # same size, other bytes
    (out / "trunk/layer_000.data").unlink()
    code, text, _ = run_export(checkpoint, "--out", out, *FLAGS, "--json")
    assert (code, json.loads(text)["steps_resumed"] > 0) == (0, True)
    assert contents(out) == whole


def test_other_options_or_source_are_refused(checkpoint: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = interrupted(checkpoint, tmp_path)
    code, _, err = run_export(checkpoint, "--out", out, "--trunk", "fp32")
    assert code == 78
    assert "the unfinished export here has another --trunk: int4 then, fp32 now" in err
    assert "--no-resume" in err
    other = write_qwen3(tmp_path / "other", qwen3_config(256, 256, 8, 6), seed=1)
    code, _, err = run_export(other, "--out", out, *FLAGS)
    assert (code, "another checkpoint, or one that changed" in err) == (78, True)
    assert run_export(checkpoint, "--out", out, *FLAGS, "--no-resume")[0] == 0
    assert contents(out) == whole


def test_source_that_changes_under_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_qwen3(tmp_path / "ck", qwen3_config(64, 64, 2, 1))

    def touch_then_write(*arguments: Any) -> None:
        (source / "model.safetensors").touch()
        write_reference(*arguments)

    monkeypatch.setattr("hobbit_export.steps.write_reference", touch_then_write)
    with pytest.raises(BundleError, match="changed while it was exported"):
        export(ExportOptions(source, tmp_path / "bundle"), quiet=True)
    assert not (tmp_path / "bundle/manifest.json").exists()


def test_one_export_per_folder(checkpoint: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "bundle"):
        code, _, err = run_export(checkpoint, "--out", tmp_path / "bundle", *FLAGS)
    assert (code, "another export is writing to it" in err) == (78, True)
    assert run_export(checkpoint, "--out", tmp_path / "bundle", *FLAGS)[0] == 0


def test_torn_last_line_loses_only_its_step(tmp_path: Path) -> None:
    print_ = {"journal": 1, "tiers": [2, 4]}
    journal = Journal(tmp_path, print_)
    journal.add(Step("a", [PART], {"errors": {"2": [0.5]}}))
    safe = len((tmp_path / "export.journal").read_bytes())
    journal.add(Step("b", [PART]))
    raw = (tmp_path / "export.journal").read_bytes()
    for cut in range(safe, len(raw)):
        (tmp_path / "export.journal").write_bytes(raw[:cut])
        again = Journal(tmp_path, print_)
        assert list(again.steps) == ["a"]
        assert again.steps["a"] == Step("a", [PART], {"errors": {"2": [0.5]}})
        again.add(Step("c", []))
        assert list(Journal(tmp_path, print_).steps) == ["a", "c"]


@pytest.mark.parametrize("line", [b"nonsense", b"[]", b'{"step": "x"}', b'{"step":"x","parts":[{"name":1}],"data":{}}'])
def test_damaged_journal_is_refused(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "export.journal").write_bytes(b'{"journal": 1}\n' + line + b"\n")
    with pytest.raises(BundleError, match="--no-resume"):
        Journal(tmp_path, {"journal": 1})
    with pytest.raises(ConfigError, match="the unfinished export here has another form. Repeat the first"):
        Journal(write_journal(tmp_path), {"journal": 2})


def write_journal(folder: Path) -> Path:
    (folder / "export.journal").write_bytes(b'{"journal": 1}\n')
    return folder


def interrupted(checkpoint: Path, tmp_path: Path) -> Path:
    """An export killed after some layers."""

    def attempt() -> Path | None:
        out = Path(mkdtemp(dir=tmp_path)) / "bundle"
        process = hobbit_export(checkpoint, "--out", out, *FLAGS)
        while process.poll() is None and "experts/layer_001.hbx" not in finished(out):
            time.sleep(0.002)
        process.kill()
        process.communicate()
        return out if (out / "export.journal").exists() else None  # else it was over before

    return until(attempt, "an interrupted export")
