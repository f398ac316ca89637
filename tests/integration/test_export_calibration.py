"""hobbit-export --calibrate: what each tier does to the output is measured, and the same wherever it is measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import MODEL as EXAMPLE

from edge_runtime.base.errors import BundleError
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.calibration import read as read_calibration
from hobbit_export.calibration import check_text
from hobbit_export.cli import build_parser
from hobbit_export.exporter import export
from hobbit_export.options import DEFAULT_TEXT, ExportOptions
from hobbit_export.quality import measure_quality


def test_calibration_text_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.txt"
    text.write_text((EXAMPLE / "heldout_prose.txt").read_text()[:600])
    plain = tmp_path / "plain"
    export(ExportOptions(EXAMPLE, plain, tiers=(2, 4)), quiet=True)
    chosen = ExportOptions(EXAMPLE, tmp_path / "bundle", tiers=(2, 4), calibrate=text)

    def die(*arguments: object) -> None:
        assert not (tmp_path / "bundle/manifest.json").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("hobbit_export.exporter.measure_quality", die)
    with pytest.raises(KeyboardInterrupt):
        export(chosen, quiet=True)
    monkeypatch.undo()
    with pytest.raises(BundleError, match="unfinished"):
        Bundle.open(tmp_path / "bundle")
    report = export(chosen, quiet=True)
    assert report.steps_run == 1  # only the measuring is left
    assert Bundle.open(tmp_path / "bundle").manifest.bundle_id != Bundle.open(plain).manifest.bundle_id

    data = json.loads((tmp_path / "bundle/calibration/experts.json").read_text())
    without = json.loads((plain / "calibration/experts.json").read_text())
    assert data["tokens"] > 50
    for layer, other in zip(data["layers"], without["layers"], strict=True):
        assert sum(layer["counts"]) == 4 * data["tokens"]
        assert "counts" not in other
        assert layer["errors"]["4"] == other["errors"]["4"]
        # outputs are what the two-bit tier is fitted to: weights pay for it
        assert all(1 <= a / b < 1.5 for a, b in zip(layer["errors"]["2"], other["errors"]["2"], strict=True))
        assert layer["output_errors"]["4"] == [0] * 32
        assert 0.1 < np.mean(layer["output_errors"]["2"]) < 0.5
        assert min(layer["norms"]) > 0
        # what is left out hurts more than what is coarse, for the same error put in; both hurt
        assert layer["sensitivity"]["skip"] > 0 < layer["sensitivity"]["quantise"]

    spec = Bundle.open(tmp_path / "bundle").manifest.model
    calibration = read_calibration(tmp_path / "bundle", spec)
    assert calibration.is_measured
    assert not read_calibration(plain, spec).is_measured
    # the sum over layers predicts all layers at once: within a factor of two on a text this short
    assert calibration.checks is not None
    (check,) = calibration.checks
    assert check.tier == 2
    assert 0.5 < check.predicted_kld / check.measured_kld < 2


def test_calibration_does_not_depend_on_memory_for_experts(tmp_path: Path) -> None:
    """Experts that do not fit are streamed: the figures are those of the whole model, bit for bit."""
    bundle = tmp_path / "bundle"
    export(ExportOptions(EXAMPLE, bundle, tiers=(2, 4)), quiet=True)
    spec = Bundle.open(bundle).manifest.model
    errors = {i: {"2": [0.3] * 32, "4": [0.07] * 32} for i in spec.sparse_layers}
    text = (EXAMPLE / "heldout_prose.txt").read_text()[:150]
    shares: list[float] = []
    found = measure_quality(bundle, text, errors, 1 << 30, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOBBIT_EXPERT_MEMORY", "1MiB")
        assert measure_quality(bundle, text, errors, 1 << 30) == found


def test_default_calibration_text_is_usable() -> None:
    check_text(DEFAULT_TEXT)
    assert build_parser().parse_args(["x", "--out", "y", "--calibrate"]).calibrate == DEFAULT_TEXT
