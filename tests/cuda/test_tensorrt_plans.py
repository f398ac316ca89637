"""Plans of TensorRT: kept, built again for what they follow from, and the memory it takes, over fakes of both."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cuda import fake_tensorrt
from cuda.engines import ALL, FEW, assert_close, logits, opened
from cuda.fake_tensorrt import RELEASES, TENSORRT

from edge_runtime.backends.cuda.cubins import write_cubin
from edge_runtime.backends.cuda.driver import Device

MIB = 1 << 20


@pytest.fixture(scope="module")
def of_cpu(model_bundle: Path) -> np.ndarray:
    with opened(model_bundle, "cpu", ALL) as engine:
        return logits(engine)


def plans_built(bundle: Path, expected: np.ndarray, backend: str = TENSORRT, **options: object) -> int:
    """Open the demo, and return how many plans that took."""
    fake_tensorrt.Builder.configs.clear()
    with opened(bundle, backend, FEW, **options) as engine:
        assert_close(logits(engine), expected)
    return len(fake_tensorrt.Builder.configs)


def test_plans_are_kept_and_built_again_when_something_changed(
    model_bundle: Path, of_cpu: np.ndarray, use_version, tmp_path: Path, caplog
):
    def built(context: int = 128) -> int:
        return plans_built(model_bundle, of_cpu, context=context)

    all_parts = built()
    (config, *_), folder = fake_tensorrt.Builder.configs, tmp_path / "cache/hobbit-edge/engines"
    assert config.limits == {fake_tensorrt.MemoryPoolType.WORKSPACE: 256 << 20}
    assert config.cleared == {fake_tensorrt.BuilderFlag.TF32}, "what chooses experts is not rounded"
    assert [profile.shapes["resid"] for profile in config.profiles] == [
        [[1, 1, d]] * 3 if t == 1 else [[1, 2, d], [1, t, d], [1, t, d]]
        for t in (1, 16)
        for d in (config.profiles[0].shapes["resid"][0][2],)
    ]
    assert len(list(folder.glob("*.plan"))) == all_parts
    assert (folder / "timings").read_bytes().startswith(b"timed")
    assert built() == 0
    assert built(context=64) == all_parts
    assert len(list(folder.glob("*.plan"))) == all_parts, "those of another context are gone"
    use_version(RELEASES[1])
    assert built(context=64) == all_parts
    one, *_ = folder.glob("*.plan")
    one.write_bytes(one.read_bytes()[:-1])
    other = sorted(folder.glob("*.plan"))[-1]
    with caplog.at_level(logging.WARNING):
        assert built(context=64) == 1
    assert "is damaged" in caplog.text
    write_cubin(other, b"a plan of another driver")
    assert built(context=64) == 1
    assert "does not take its plan. It is built again." in caplog.text
    (folder / "timings").write_bytes(b"broken")
    other.unlink()
    assert built(context=64) == 1
    assert (folder / "timings").read_bytes() == b"timed"


@pytest.mark.parametrize(
    ("change", "backend"),
    [
        pytest.param(lambda fake: fake.fake_board(16, 8 << 30), TENSORRT, id="multiprocessors"),
        pytest.param(lambda fake: fake.fake_board(8, 64 << 30), TENSORRT, id="memory"),
        pytest.param(lambda fake: fake.fake_device(12080, 87, 1), TENSORRT, id="driver"),
        pytest.param(lambda fake: None, f"{TENSORRT},workspace=512", id="workspace"),
    ],
)
def test_another_board_driver_or_workspace_has_plans_of_its_own(
    model_bundle: Path,
    of_cpu: np.ndarray,
    use_version,
    fake: ctypes.CDLL,
    change: Callable[[ctypes.CDLL], None],
    backend: str,
):
    """An Orin Nano, an NX and an AGX have one architecture, and GPUs of one name."""
    all_parts = plans_built(model_bundle, of_cpu)
    change(fake)
    assert plans_built(model_bundle, of_cpu, backend) == all_parts > 0
    assert plans_built(model_bundle, of_cpu, backend) == 0


def test_a_kernel_that_leaves_less_of_the_memory_keeps_the_plans(
    model_bundle: Path, of_cpu: np.ndarray, use_version, fake: ctypes.CDLL
):
    """A Jetson's GPU has the memory of the system, less what the kernel and its carve-outs take."""
    fake.fake_board(8, 7700 * MIB)
    assert plans_built(model_bundle, of_cpu) > 0
    fake.fake_board(8, 7400 * MIB)
    assert plans_built(model_bundle, of_cpu) == 0


def test_boards_that_differ_in_memory_alone_are_told_apart(device: Device, fake: ctypes.CDLL):
    """Orin modules of 4 to 64 GB, and Thor, with a share of the memory left out."""
    seen = set()
    for gib in (4, 8, 16, 32, 64, 128):
        for share in (1.0, 0.9):
            fake.fake_board(8, int(share * gib * 1024 * MIB))
            seen.add(device.facts)
    assert len(seen) == 6


def test_what_engines_are_built_in_and_work_in_is_planned(
    model_bundle: Path, use_version, monkeypatch: pytest.MonkeyPatch
):
    """They are built after the experts have taken all that the plan leaves them."""
    monkeypatch.setattr(fake_tensorrt.Builder, "parts", 1)
    with opened(model_bundle, f"{TENSORRT},workspace=96", FEW) as engine:
        lines = {line.name: line.bytes for line in engine.plan.lines}
        limits = {config.limits[fake_tensorrt.MemoryPoolType.WORKSPACE] for config in fake_tensorrt.Builder.configs}
        assert engine.parts.backend.driver_bytes > 96 * MIB
        assert engine.parts.backend.driver_bytes <= sum(lines.values()) - lines["runtime libraries"] - lines["headroom"]
        assert {lines["workspace"]} == limits == {96 * MIB}
        (row,) = (row.split() for row in engine.plan.table() if row.startswith("workspace"))
        assert row[:3] == ["workspace", "96.0", "MiB"]
    with opened(model_bundle, "cuda", FEW) as engine:
        assert "workspace" not in {line.name for line in engine.plan.lines}, "nothing is built"


def test_building_says_how_far_it_is(model_bundle, use_version, caplog, capsys):
    """As the command line shows it without --verbose: a line for each graph, before the minutes it takes."""
    with caplog.at_level(logging.WARNING), opened(model_bundle, TENSORRT, FEW) as engine:
        parts = [
            name for name in (p.name for p in engine.parts.bundle.manifest.of_role("trunk")) if "embed" not in name
        ]
        graphs = [name for name in parts if name.endswith(".onnx") and "routers" not in name]
        said = [
            record.getMessage() for record in caplog.records if record.getMessage().startswith("tensorrt: building")
        ]
        assert len(said) == len(fake_tensorrt.Builder.configs) == len(graphs)
    assert [f", {n} of {len(said)}, once for this GPU and context" in each for n, each in enumerate(said, 1)] == [
        True
    ] * len(said)
    caplog.clear()
    with caplog.at_level(logging.WARNING), opened(model_bundle, TENSORRT, FEW):
        assert "building" not in caplog.text, "they are kept"
