"""hobbit-export --trunk auto: int4 where text held out from its fit shows that it is good enough, else int8."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import qwen3_config, run_export, write_qwen3
from transfers import contents

from edge_runtime import Engine
from edge_runtime.base.errors import BundleError, ConfigError
from edge_runtime.bundle import trunk_choice
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.manifest import Part
from edge_runtime.bundle.verification import check_bundle
from edge_runtime.engine import tokenizer
from edge_runtime.lab.evaluation import log_softmax
from hobbit_export import exporter
from hobbit_export.ceiling import resident_bytes
from hobbit_export.exporter import ExportReport, export
from hobbit_export.options import DEFAULT_TEXT, MEASURED_TOKENS, ExportOptions
from hobbit_export.parts import publish
from hobbit_export.source import SourceModel
from hobbit_export.statistics.text import CalibrationText
from hobbit_export.trunk_choice import KLD_BOUND
from hobbit_export.verify import check_same_source

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/tiny-moe"
LAYERS, TOKENS = 2, 1100
CHOICE = "calibration/trunk.json"


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tiers cost is not the matter here."""
    monkeypatch.setattr(exporter, "measure_quality", lambda *arguments: None)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model whose int4 trunk is close to int8, and one whose is not; a byte of text is a token of theirs."""
    config = qwen3_config(64, 64, 4, LAYERS)
    close, far = (write_qwen3(tmp_path_factory.mktemp("ck") / name, config) for name in ("close", "far"))
    with open(far / "model.safetensors", "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        start, stop = json.loads(file.read(length))["lm_head.weight"]["data_offsets"]
        file.seek(8 + length + start)
        head = (np.frombuffer(file.read(stop - start), "<u2").astype(np.uint32) << 16).view(np.float32)
        head = head * np.float32(20)
        head[::16] *= 100  # in each block of weights with one scale: the others become nothing
        file.seek(8 + length + start)
        file.write((head.view(np.uint32) >> 16).astype("<u2").tobytes())
    return {"close": close, "far": far}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes((EXAMPLE / "heldout_prose.txt").read_text().encode("ascii", "ignore")[:TOKENS])
    return path


@pytest.fixture(scope="module")
def chosen(
    checkpoints: dict[str, Path], text: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[ExportReport, dict[str, bytes]]]:
    """name -> report and files of an export that chose."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "measure_quality", lambda *arguments: None)
        for name, checkpoint in checkpoints.items():
            out = tmp_path_factory.mktemp("b") / name
            found[name] = export(ExportOptions(checkpoint, out, calibrate=text), quiet=True), contents(out)
    return found


def log_probabilities(bundle: Path, ids: np.ndarray) -> np.ndarray:
    with Engine.open(bundle, memory="1GiB", tier=8, context=256, self_check=False) as engine:
        return log_softmax(np.concatenate([rows for _, rows in engine.logit_windows(ids)]))


@pytest.mark.parametrize(("name", "precision"), [("close", "int4"), ("far", "int8")])
def test_the_trunk_is_the_one_that_was_measured(checkpoints, text, chosen, tmp_path, name, precision) -> None:
    report, files = chosen[name]
    found = trunk_choice.parse(files[CHOICE])
    bundle = Bundle.open(report.bundle)
    assert (bundle.manifest.trunk.precision, found.trunk, report.trunk["precision"]) == (precision,) * 3
    assert (found.kld_mean <= KLD_BOUND) == (precision == "int4")
    assert found == trunk_choice.read(bundle) == trunk_choice.TrunkLoss(**report.trunk["measured"])
    check_bundle(bundle)

    source = SourceModel.open(checkpoints[name])
    with source.checkpoint:
        held = CalibrationText(source, text).held_out
    assert held is not None
    assert (found.tokens, found.fitted_tokens, found.held_out) == (len(held.ids), held.fitted, held.where)
    asked = ExportOptions(checkpoints[name], tmp_path / "int8", trunk="int8", calibrate=text)
    export(asked, quiet=True)
    int8 = contents(tmp_path / "int8")
    # but for the trunk nothing differs: the experts' tables are fitted to the whole text either way
    same = {n for n, data in files.items() if int8.get(n) == data}
    assert set(files) - same == {CHOICE, "manifest.json"} | (
        {n for n in int8 if n.startswith(("trunk/layer_", "trunk/head."))} if precision == "int4" else set()
    )
    if precision == "int4":
        p, q = log_probabilities(tmp_path / "int8", held.ids), log_probabilities(Path(report.bundle), held.ids)
        assert float((np.exp(p) * (p - q)).sum(axis=-1).mean()) == pytest.approx(found.kld_mean, rel=1e-4)
    said = f"{found.kld_mean:.3g} nats from int8 on the text's tokens 513 to 1100 of 1100"
    assert report.trunk["why"].startswith(f"int4 is {said}")
    assert report.trunk["why"].endswith("at most 0.003 are allowed")


def test_what_it_is_judged_on_it_was_not_fitted_to(checkpoints, text, chosen, tmp_path) -> None:
    """Other held-out text, the same before it: the int4 trunk has the same bytes."""
    words = text.read_bytes()
    source = SourceModel.open(checkpoints["close"])
    with source.checkpoint:
        held = CalibrationText(source, text).held_out
    assert held is not None
    other = tmp_path / "text.txt"
    other.write_bytes(words[: held.fitted] + words[held.fitted :][::-1])
    export(ExportOptions(checkpoints["close"], tmp_path / "b", calibrate=other), quiet=True)
    _, files = chosen["close"]
    found = contents(tmp_path / "b")
    assert found[CHOICE] != files[CHOICE]
    assert all(found[name] == data for name, data in files.items() if name.startswith("trunk/"))


@pytest.mark.parametrize("name", ["close", "far"])
def test_another_run_gives_the_same_bytes(checkpoints, text, chosen, tmp_path, name) -> None:
    memory = resident_bytes() + (512 << 20)  # this process holds what every test before left
    asked = ExportOptions(checkpoints[name], tmp_path / "b", calibrate=text, jobs=2, memory_bytes=memory)
    export(asked, quiet=True)
    assert contents(tmp_path / "b") == chosen[name][1]


def dying(seed: int) -> Callable[..., Part]:
    """`publish` that ends the export before one of the next files is put in its place."""
    left = random.Random(seed).randint(1, 7)

    def publish_or_die(bundle: Path, folder: Path, name: str, *rest: Any) -> Part:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return publish(bundle, folder, name, *rest)

    return publish_or_die


@pytest.mark.parametrize("name", ["close", "far"])
def test_an_export_that_dies_again_and_again_ends_the_same(checkpoints, text, chosen, tmp_path, name) -> None:
    asked, deaths, seen = ExportOptions(checkpoints[name], tmp_path / "b", calibrate=text), 0, set()
    for seed in range(100):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hobbit_export.runner.publish", dying(seed))
            try:
                export(asked, quiet=True)
                break
            except KeyboardInterrupt:
                deaths += 1
        assert not (tmp_path / "b/manifest.json").exists()
        seen |= {json.loads(line)["step"] for line in (tmp_path / "b/export.journal").read_text().splitlines()[1:]}
    assert deaths > 8
    assert {"int8 trunk's logits", "int4 trunk layer 0"} <= seen
    assert contents(tmp_path / "b") == chosen[name][1]


JUDGE_AND_DIE = """
import os, signal, sys
import hobbit_export.choosing as choosing
choosing.QualityMeter.add = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
from hobbit_export.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_killed_while_it_measures_leaves_no_bundle_and_goes_on(checkpoints, text, tmp_path) -> None:
    out = tmp_path / "b"
    flags = [str(checkpoints["far"]), "--out", str(out), "--calibrate", str(text), "--no-self-check"]
    flags += ["--memory", "400MiB"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    died = subprocess.run(
        [sys.executable, "-c", JUDGE_AND_DIE, *flags], env=environment, capture_output=True, check=False
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    with pytest.raises(BundleError, match="unfinished"):
        Bundle.open(out)
    code, said, err = run_export(*flags, "--json")
    report = json.loads(said)
    assert (code, err) == (0, "")
    assert report["steps_run"] == 1 + LAYERS + 1 + 1, "the choice, the int8 trunk back in its place, the calibration"
    assert report["trunk"]["asked"] == "auto"
    assert report["peak_rss_bytes"] <= 400 << 20
    assert report["trunk"]["measured"]["kld_mean"] > report["trunk"]["measured"]["kld_bound"] == KLD_BOUND
    assert sorted(p.name for p in out.iterdir()) == ["calibration", "experts", "manifest.json", "tokenizer", "trunk"]


def test_logits_that_are_gone_are_named(checkpoints, text, tmp_path, monkeypatch) -> None:
    asked = ExportOptions(checkpoints["close"], tmp_path / "b", calibrate=text)
    monkeypatch.setattr("hobbit_export.choosing.QualityMeter.add", None)
    with pytest.raises(TypeError):
        export(asked, quiet=True)
    monkeypatch.undo()
    (tmp_path / "b/statistics/int8.logits").unlink()
    with pytest.raises(BundleError, match=r"int8\.logits of an earlier run is gone or damaged\. Start over"):
        export(asked, quiet=True)


def test_nothing_to_choose(checkpoints, text, tmp_path) -> None:
    """Without a text, or with too little of it, the bundle is the one of --trunk int8, and the report says why."""
    short = tmp_path / "short.txt"
    short.write_bytes(text.read_bytes()[:1023])
    for calibrate, why in ((None, "only where its loss is measured"), (short, "too short to fit an int4 trunk")):
        asked = ExportOptions(checkpoints["close"], tmp_path / "auto", calibrate=calibrate, resume=False)
        report = export(asked, quiet=True)
        assert (report.trunk["precision"], report.trunk["measured"]) == ("int8", None)
        assert why in report.trunk["why"]
        explicit = export(replace(asked, out=tmp_path / "int8", trunk="int8"), quiet=True)
        assert explicit.trunk == {"asked": "int8", "precision": "int8", "why": "", "measured": None}
        assert contents(tmp_path / "auto") == contents(tmp_path / "int8")
    code, said, _ = run_export(checkpoints["close"], "--out", tmp_path / "auto", "--no-resume", "--no-self-check")
    assert (code, "trunk: int8: int4 is taken only where its loss is measured" in said) == (0, True)


def test_the_text_is_encoded_once(checkpoints, text, tmp_path, monkeypatch) -> None:
    """A tokenizer of a large vocabulary takes seconds to make: the exporter's own is made once, whoever asks for ids."""
    made: list[str] = []

    class Counted(tokenizer.Tokenizer):
        def __init__(self, files: dict[str, bytes], vocab_size: int) -> None:
            caller = Path(traceback.extract_stack(limit=2)[0].filename)
            made.extend([caller.stem] * ("hobbit_export" in caller.parts))
            super().__init__(files, vocab_size)

    monkeypatch.setattr(tokenizer, "Tokenizer", Counted)
    report = export(ExportOptions(checkpoints["close"], tmp_path / "b", calibrate=text), quiet=True)
    assert report.trunk["measured"] is not None
    assert made == ["text"]


def test_a_finished_bundle_is_recognised(checkpoints, text, chosen, tmp_path) -> None:
    """By auto, and by the precision it came to; a bundle that had no choice is no choice's."""
    for name, other in (("close", "int8"), ("far", "int4")):
        bundle = Path(chosen[name][0].bundle)
        asked = ExportOptions(checkpoints[name], bundle, tiers=(2, 4, 6, 8), calibrate=text)
        for trunk in {"auto", chosen[name][0].trunk["precision"]}:
            check_same_source(replace(asked, trunk=trunk))
        with pytest.raises(ConfigError, match=f"--trunk: expected {other}"):
            check_same_source(replace(asked, trunk=other))
    int4 = ExportOptions(checkpoints["close"], tmp_path / "int4", trunk="int4", calibrate=text)
    export(int4, quiet=True)
    with pytest.raises(ConfigError, match="--trunk: expected int8"):
        check_same_source(replace(int4, trunk="auto"))


def test_a_dry_run_says_what_may_come(checkpoints, text, chosen, tmp_path) -> None:
    flags = (checkpoints["close"], "--out", tmp_path / "b", "--calibrate", text, "--dry-run")
    code, said, _ = run_export(*flags, "--json")
    plan = json.loads(said)
    assert code == 0
    int4, int8 = (Bundle.open(chosen[name][0].bundle).manifest.of_role("trunk") for name in ("close", "far"))
    saved = sum(part.bytes for part in int8) - sum(part.bytes for part in int4)
    assert plan["bytes"]["trunk"] - plan["trunk"]["int4_bytes"] == pytest.approx(saved, rel=0.1)
    assert plan["trunk"]["extra_bytes"] - plan["trunk"]["int4_bytes"] == 4 * 512 * plan["trunk"]["tokens"]
    code, said, _ = run_export(*flags)
    assert "trunk: int8, or int4 in" in said
    assert "tokens 513 to 1100 of 1100" in said
    code, _, err = run_export(*flags[:4], "/nonexistent.txt", "--dry-run")
    assert (code, "--calibrate /nonexistent.txt: cannot be read" in err) == (78, True)


def test_which_tokens_are_held_out(tmp_path: Path) -> None:
    source, text = SourceModel.open(EXAMPLE), tmp_path / "text.txt"
    words = (EXAMPLE / "heldout_prose.txt").read_text()
    with source.checkpoint:
        own = CalibrationText(source, DEFAULT_TEXT).held_out
        assert own is not None
        assert own.fitted == len(CalibrationText(source, DEFAULT_TEXT).fitted), (
            "fitted to another text that comes along"
        )
        assert len(own.ids) == 1024
        for characters in (2500, 4000, 15000, 60000):
            text.write_text(words[:characters])
            found = CalibrationText(source, text)
            fitted, held = found.fitted, found.held_out
            text.write_text(words)
            whole = CalibrationText(source, text).fitted  # of the long text, behind what quality is measured on
            if characters == 60000:
                assert held is not None
                assert np.array_equal(fitted, whole)
                assert held.fitted == len(whole)
                assert held.where == "first 1024 tokens"
                assert len(held.ids) < MEASURED_TOKENS, "so that it is none of those"
            elif len(fitted) < 1024:
                assert held is None
            else:
                assert held is not None
                assert held.fitted % 256 == 0
                assert 512 <= held.fitted <= len(fitted) - 512
                assert 512 <= len(held.ids) <= 1024
                assert np.array_equal(held.ids, fitted[held.fitted :][:1024])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trunk": "fp16"}, r"trunk\.json\.trunk: expected one of int8, int4"),
        ({"version": 2}, "version: expected 1, got 2"),
        ({"kld_mean": None}, "kld_mean: expected float"),
        ({"more": 1}, "unknown key 'more'"),
    ],
)
def test_a_damaged_choice_is_named(chosen, change, message) -> None:
    good = json.loads(chosen["close"][1][CHOICE])
    with pytest.raises(BundleError, match=message):
        trunk_choice.parse(json.dumps(good | change))
