"""Codes fitted to a text: closer on text that was held back, deeper tiers as they were, the same bytes anyhow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import qwen3_config, write_qwen3
from transfers import contents

from edge_runtime import Engine
from edge_runtime.base.errors import BudgetError, BundleError, ConfigError
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.part_names import expert_file
from edge_runtime.engine.tokenizer import Tokenizer
from edge_runtime.lab.evaluation import log_softmax
from hobbit_export import exporter
from hobbit_export.ceiling import resident_bytes
from hobbit_export.exporter import export
from hobbit_export.options import DEFAULT_TEXT, FITTING_TEXT, MEASURED_TOKENS, ExportOptions
from hobbit_export.source import SourceModel
from hobbit_export.statistics import source_pass
from hobbit_export.statistics.text import MAX_TOKENS, CalibrationText

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/tiny-moe"
TOKENS = 256


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tiers cost is not the matter here."""
    monkeypatch.setattr(exporter, "measure_quality", lambda *arguments: None)


def text_in(folder: Path, characters: int) -> Path:
    text = folder / "text.txt"
    text.write_text((EXAMPLE / "heldout_prose.txt").read_text()[:characters])
    return text


def divergence(bundle: Path, tier: int, wanted: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """Log-probabilities on Python, which nothing was fitted to, and their distance to those that are wanted."""
    options = {"memory": "1GiB", "context": TOKENS, "tier": tier, "self_check": False}
    with Engine.open(bundle, **options) as engine:
        ids = engine.tokenizer.encode((EXAMPLE / "heldout_python.txt").read_text())[:TOKENS]
        found = log_softmax(np.concatenate([rows for _, rows in engine.logit_chunks(np.asarray(ids, np.int32))]))
    wanted = found if wanted is None else wanted
    return found, float((np.exp(wanted) * (wanted - found)).sum(axis=-1).mean())


def test_two_bits_come_closer_and_four_stay(tmp_path: Path) -> None:
    plain, fitted = tmp_path / "plain", tmp_path / "fitted"
    export(ExportOptions(EXAMPLE, plain, (2, 4), trunk="fp32"), quiet=True)
    export(ExportOptions(EXAMPLE, fitted, (2, 4), trunk="fp32", calibrate=text_in(tmp_path, 6000)), quiet=True)
    wanted, _ = divergence(plain, 4)
    before, after = (divergence(bundle, 2, wanted)[1] for bundle in (plain, fitted))
    assert after < 0.6 * before
    assert np.array_equal(divergence(fitted, 4)[0], wanted)
    assert not (fitted / "statistics").exists()
    sizes = [{part.name: part.bytes for part in Bundle.open(bundle).manifest.parts} for bundle in (plain, fitted)]
    assert all(sizes[0][expert_file(i)] == sizes[1][expert_file(i)] for i in range(8))
    for name in sizes[0]:
        if name.startswith("trunk/"):
            assert (plain / name).read_bytes() == (fitted / name).read_bytes(), "int4 alone is fitted"


def test_an_int4_trunk_comes_closer(tmp_path: Path) -> None:
    text = text_in(tmp_path, 6000)
    for name, options in {
        "exact": {"trunk": "int8"}, "plain": {"trunk": "int4"}, "fitted": {"trunk": "int4", "calibrate": text},
    }.items():  # fmt: skip
        export(ExportOptions(EXAMPLE, tmp_path / name, (4,), **options), quiet=True)  # type: ignore[arg-type]
    wanted, _ = divergence(tmp_path / "exact", 4)
    before, after = (divergence(tmp_path / name, 4, wanted)[1] for name in ("plain", "fitted"))
    assert after < 0.7 * before
    sizes = [sum(p.bytes for p in Bundle.open(tmp_path / n).manifest.of_role("trunk")) for n in ("plain", "fitted")]
    assert sizes[0] == sizes[1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3(tmp_path_factory.mktemp("ck") / "small", qwen3_config(64, 64, 6, 3))


def options_for(checkpoint: Path, folder: Path, out: str, **more: object) -> ExportOptions:
    chosen = {"trunk": "int4", "calibrate": text_in(folder, 1500)} | more
    return ExportOptions(checkpoint, folder / out, **chosen)  # type: ignore[arg-type]


def test_how_it_is_done_changes_no_byte(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads, memory, and an export that died in the pass and was gone on with."""
    export(options_for(checkpoint, tmp_path, "whole", jobs=2), quiet=True)
    whole = contents(tmp_path / "whole")
    with pytest.raises(BudgetError, match="Raise --memory to at least") as refused:
        export(options_for(checkpoint, tmp_path, "none", memory_bytes=resident_bytes() + (8 << 20)), quiet=True)
    floor = int(str(refused.value).rpartition("at least ")[2].removesuffix("MiB."))
    export(options_for(checkpoint, tmp_path, "tight", memory_bytes=(floor + 64) << 20), quiet=True)
    assert contents(tmp_path / "tight") == whole

    def die(source: SourceModel, ids: np.ndarray, layer_idx: int, *rest: Any, **more: Any) -> list[str]:
        names = source_pass.run_layer(source, ids, layer_idx, *rest, **more)
        if layer_idx == 2:
            raise KeyboardInterrupt
        return names

    with monkeypatch.context() as patch:
        patch.setattr("hobbit_export.steps.run_layer", die)
        with pytest.raises(KeyboardInterrupt):
            export(options_for(checkpoint, tmp_path, "died"), quiet=True)
    report = export(options_for(checkpoint, tmp_path, "died"), quiet=True)
    assert report.steps_resumed >= 3
    assert contents(tmp_path / "died") == whole


def test_a_stream_that_is_gone_is_named(checkpoint: Path, tmp_path: Path) -> None:
    source = SourceModel.open(checkpoint)
    with source.checkpoint, pytest.raises(BundleError, match=r"stream_000\.npy: expected what the layers before gave"):
        source_pass.run_layer(source, np.arange(4, dtype=np.int32), 1, tmp_path, tmp_path)


def test_what_is_measured_on_is_not_fitted_to(tmp_path: Path) -> None:
    source = SourceModel.open(EXAMPLE)
    text, words = tmp_path / "text.txt", (EXAMPLE / "heldout_prose.txt").read_text()
    with source.checkpoint:
        tokens = {}
        for name, content in {"short": words[:2000], "long": words}.items():
            text.write_text(content)
            tokens[name] = CalibrationText(source, text).fitted
        whole = Tokenizer.from_folder(EXAMPLE).encode(words)
        assert tokens["short"].tolist() == Tokenizer.from_folder(EXAMPLE).encode(words[:2000])
        assert tokens["long"].tolist() == whole[MEASURED_TOKENS : MEASURED_TOKENS + MAX_TOKENS]
        fitted = Tokenizer.from_folder(EXAMPLE).encode(FITTING_TEXT.read_text())
        assert CalibrationText(source, DEFAULT_TEXT).fitted.tolist() == fitted[:MAX_TOKENS]
        text.write_text("\n")
        with pytest.raises(ConfigError, match="at least 2 tokens"):
            assert CalibrationText(source, text).fitted is None
