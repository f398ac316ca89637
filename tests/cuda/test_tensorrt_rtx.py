"""Graphs parsed and plans built by a real TensorRT: the one for RTX, which needs neither GPU nor driver for it.

It is another product than the TensorRT of a JetPack and takes more; the tables of operators stay the stricter test. It
has found what tables do not say: caches of one size, attention in half precision.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from cuda.test_tensorrt_lowering import FIRST, SLOTS, lowered, spec_of

from edge_runtime.backends.cuda.tensorrt.building import PlanBuilder, profiles_for
from edge_runtime.backends.cuda.tensorrt.graph import Lowered
from edge_runtime.backends.cuda.tensorrt.modern import modernise
from edge_runtime.backends.cuda.tensorrt.plans import build_plan
from edge_runtime.backends.cuda.tensorrt.products import by_products
from edge_runtime.base.errors import DeviceError

pytestmark = [pytest.mark.oracle, pytest.mark.emulation]
CHUNK = 16


@pytest.fixture(scope="module")
def builder() -> PlanBuilder:
    try:
        importlib.import_module("tensorrt_rtx_libs")
        module = importlib.import_module("tensorrt_rtx_bindings")
    except ImportError:
        pytest.skip("TensorRT for RTX is not installed: NO plan was built. pip install -e '.[tensorrt-check]'")

    def for_a_gpu_that_is_not_here(config: Any) -> None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(module.ComputeCapability.SM86, 0)

    return PlanBuilder(module, 256 << 20, configure=for_a_gpu_that_is_not_here, progress=lambda *_: None)


def build(builder: PlanBuilder, low: Lowered, folder: Path) -> bytes:
    return build_plan(builder, low, folder, profiles_for(CHUNK, SLOTS))


@pytest.mark.parametrize("precision", ["fp32", "int4"])
@pytest.mark.parametrize("case", FIRST)
def test_every_familys_graphs_are_built(builder: PlanBuilder, case: str, precision: Any, tmp_path: Path):
    """Each kind of layer once: the graphs of others differ in their weights."""
    seen: set[tuple[str, ...]] = set()
    for _, low in lowered(spec_of(case, tmp_path), tmp_path, precision):
        modern = modernise(low, SLOTS)
        for form in (low, modern, by_products(modern)):
            kind = (*[step.op for step in form.steps], *map(str, form.inputs.values()))
            if kind not in seen:
                seen.add(kind)
                assert len(build(builder, form, tmp_path)) > 1000


def test_what_it_refuses_is_named(builder: PlanBuilder, tmp_path: Path):
    low = next(low for _, low in lowered(spec_of("qwen3_moe", tmp_path), tmp_path, "int4") if low.name == "layer_000")
    low.steps[0] = low.steps[0]._replace(op="NoSuchOperator")
    with pytest.raises(DeviceError, match=r"does not take layer_000: NoSuchOperator"):
        build(builder, low, tmp_path)
