"""What `hobbit-export --dry-run` and the documentation's tables say of boards is what `hobbit plan --boards` says."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.bundle.bundle import Bundle
from edge_runtime.config.profiles import load_profile
from edge_runtime.config.resolve import EngineOptions
from edge_runtime.lab.board_plans import plan_boards
from edge_runtime.lab.shape_plan import PROCESS_BYTES, TOKEN_BYTES, PartToCome, manifest_to_come, plan_shape
from hobbit_export.expected_parts import expected_parts
from hobbit_export.fit import fit_profiles
from hobbit_export.options import ExportOptions
from hobbit_export.source import SourceModel

MODEL = Path(__file__).parents[2] / "examples/tiny-moe"
BOARDS = ("orin-nano-4gb", "raspberry-pi-5-8gb", "agx-orin-64gb")


@pytest.mark.parametrize("said", [{}, {"tier": 4, "context": 512}, {"trunk": "onnx"}], ids=str)
def test_a_shape_is_planned_as_its_bundle_will_be(model_bundle, said):
    """All but what this process takes, which is measured with a bundle and assumed without."""
    bundle = Bundle.open(model_bundle).manifest
    parts = [PartToCome(part.name, part.role, part.bytes) for part in bundle.parts]
    to_come = manifest_to_come(
        bundle.model, bundle.experts.tiers, bundle.experts.num_segments, bundle.trunk.precision, parts
    )
    whole = {board.profile.name: board for board in plan_boards(model_bundle, EngineOptions.from_keywords(said), {})}
    for name in BOARDS:
        shape = plan_shape(to_come, load_profile(name), said)
        assert shape.ceiling == whole[name].ceiling
        lines, expected = shape.needs.fixed_lines(), whole[name].needs.fixed_lines()
        assert [line for line in lines if line.name != "runtime libraries"] == [
            line for line in expected if line.name != "runtime libraries"
        ]
        assert shape.speed is not None
        assert whole[name].speed is not None
        assert shape.speed.work.trunk_bytes == whole[name].speed.work.trunk_bytes
        assert shape.speed.rates == whole[name].speed.rates


def test_a_dry_run_says_what_the_bundle_will_need(calibrated_bundle, tmp_path):
    options = ExportOptions(MODEL, tmp_path / "no", tiers=(2, 4, 6, 8), trunk="fp32")
    source = SourceModel.open(MODEL)
    with source.checkpoint:
        found = fit_profiles(source.spec, expected_parts(source, options), options)
    for board in plan_boards(calibrated_bundle, EngineOptions.from_keywords({}), {}):
        fit, process = found[board.profile.name], PROCESS_BYTES + TOKEN_BYTES * source.spec.vocab_size
        if board.is_here:  # what this machine has left now
            continue
        assert (fit.tier, fit.context) == (board.needs.tier, board.needs.context)
        assert fit.memory_bytes == (None if board.ceiling is None else board.ceiling.bytes)
        without = board.needs.floor_bytes() - board.needs.runtime_bytes
        assert fit.floor_bytes - process == pytest.approx(without, rel=0.02), "sizes of graphs are estimated"
        assert fit.all_resident_bytes - fit.floor_bytes == board.all_bytes - board.needs.floor_bytes()


def test_a_process_is_assumed_to_take_what_a_tokenizer_of_its_size_does(model_bundle):
    bundle = Bundle.open(model_bundle).manifest
    shape = plan_shape(bundle, load_profile("orin-nano-4gb"), {"trunk": "native"})
    assert shape.needs.runtime_bytes == PROCESS_BYTES + TOKEN_BYTES * bundle.model.vocab_size
