"""Graphs as TensorRT takes them: every family's, held against the operators of both versions, and computing the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import onnxruntime
import pytest
from families import FAMILY_CASES, family_of
from random_weights import RandomWeights
from trunk_bundles import write_trunk

from edge_runtime.backends.cpu.trunk.graph_file import FLOAT, UINT8, Declared, GraphFile, Node, Tensor, read_graph
from edge_runtime.backends.cpu.trunk.mask import fill_mask
from edge_runtime.backends.cuda.tensorrt.allow_list import refusals, version_for, versions
from edge_runtime.backends.cuda.tensorrt.graph import Lowered, Step, Value, Weight
from edge_runtime.backends.cuda.tensorrt.half_weights import StoredMatrix
from edge_runtime.backends.cuda.tensorrt.lowering import lower
from edge_runtime.backends.cuda.tensorrt.modern import modernise
from edge_runtime.backends.cuda.tensorrt.onnx_bytes import FLOAT16
from edge_runtime.backends.cuda.tensorrt.products import by_products
from edge_runtime.base.spec import ModelSpec, SoftmaxAttention
from hobbit_export.arch import read_model
from hobbit_export.trunk.linear import Precision
from hobbit_export.trunk.quantize import dequantize_rows, quantize_rows

OLD, NEW = versions()["10.3"], versions()["10.16"]
TOKENS, PAST, SLOTS = 5, 11, 32
SIZES = {"T": TOKENS, "S": SLOTS, "S_plus_T": SLOTS + TOKENS}


def spec_of(case: str, folder: Path) -> ModelSpec:
    FAMILY_CASES[case]().save_pretrained(folder)
    text = (folder / "config.json").read_text()
    return read_model(json.loads(text, object_hook=lambda o: float(o["__float__"]) if "__float__" in o else o), {})[0]


def lowered(spec: ModelSpec, folder: Path, precision: Precision) -> Iterator[tuple[Path, Lowered]]:
    """Every graph of a trunk with random weights, and what becomes of it."""
    write_trunk(spec, RandomWeights(spec), folder, precision)
    for path in sorted((folder / "trunk").glob("*.onnx")):
        if path.stem != "routers":  # applied by a kernel
            yield path, lower(path.stem, read_graph(path.read_bytes()), path.with_suffix(".data"))


FIRST = {family_of(case): case for case in reversed(FAMILY_CASES)}.values()
"""A case a family in `make test`; all of them in `make gpu-emulation`."""


@pytest.mark.oracle
@pytest.mark.parametrize("precision", get_args(Precision))
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in FIRST else pytest.mark.emulation) for case in FAMILY_CASES]
)
def test_every_familys_graphs_have_operators_of_both_versions(case: str, precision: Precision, tmp_path: Path):
    spec = spec_of(case, tmp_path)
    attentions = [layer.attention for layer in spec.layers]
    plain = spec.norm == "rms" and all(isinstance(a, SoftmaxAttention) and not a.sinks for a in attentions)
    for _, low in lowered(spec, tmp_path, precision):
        assert list(refusals(low, OLD)) == []
        modern = modernise(low, SLOTS)
        assert list(refusals(modern, NEW)) == []
        found, plain_steps = Counter(step.op for step in modern.steps), by_products(modern)
        assert list(refusals(plain_steps, NEW)) == []
        assert "Attention" not in {step.op for step in plain_steps.steps}
        assert (plain_steps.inputs, plain_steps.outputs) == (modern.inputs, modern.outputs)
        if low.name.startswith("layer") and plain and spec.layers[int(low.name[-3:])].attention is not None:
            is_half = precision != "fp32"  # TensorRT's attention is of half precision alone
            assert (found["Attention"], found["TensorScatter"], found["Softmax"]) == (
                (1, 2, 0) if is_half else (0, 0, 1)
            )
            assert "Pow" not in found


def run(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options)
    given = {each.name: feeds[each.name] for each in session.get_inputs()}
    return dict(zip([each.name for each in session.get_outputs()], session.run(None, given), strict=True))


def feeds_for(path: Path, window: int | None = None) -> dict[str, np.ndarray]:
    rng, feeds = np.random.default_rng(1), {}
    for each in read_graph(path.read_bytes()).inputs:
        shape = [dim if isinstance(dim, int) else SIZES[dim] for dim in each.dims]
        feeds[each.name] = (rng.standard_normal(shape) / 2).astype(np.float32)
    if "mask" in feeds:
        fill_mask(feeds["mask"][0, 0], PAST, window)
    return feeds


@pytest.mark.oracle
@pytest.mark.parametrize("precision", ["fp32", "int4", "int8"])
@pytest.mark.parametrize("case", ["qwen3_moe", "ernie4_5_moe"])
def test_lowered_graphs_compute_the_same(case: str, precision: Precision, tmp_path: Path):
    """In float32 to the last bits. Quantised, ONNX Runtime rounds activations to 8 bits where half precision does not."""
    name = next(each for each in FAMILY_CASES if each.startswith(case))
    spec = spec_of(name, tmp_path)
    bound, rope = 2e-6 if precision == "fp32" else 3e-2, spec.ropes[0]
    for path, low in lowered(spec, tmp_path, precision):
        feeds = feeds_for(path)
        wanted = run(path, feeds)
        if rope.pairs and precision != "fp32" and "past_k" in feeds:  # lowered, neighbours lie in halves
            order = [*range(0, rope.dim, 2), *range(1, rope.dim, 2), *range(rope.dim, feeds["past_k"].shape[-1])]
            feeds["past_k"], wanted["new_k"] = (
                np.ascontiguousarray(k[..., order]) for k in (feeds["past_k"], wanted["new_k"])
            )
        found = run(low.write(tmp_path), feeds)
        modern = modernise(low, SLOTS)
        in_place = "at" in modern.inputs
        feeds["at"] = np.array([PAST], np.int64)
        if in_place:
            joint = feeds["mask"]
            feeds["mask"] = np.ascontiguousarray(joint[..., :SLOTS])
            feeds["mask"][..., PAST : PAST + TOKENS] = joint[..., SLOTS:]
            feeds |= {name: feeds[name].astype(np.float16) for name in ("past_k", "past_v")}
        newer = [
            run(replace(form, name=f"{low.name}-{i}").write(tmp_path), feeds)
            for i, form in enumerate((modern, by_products(modern)))
        ]
        for output, values in wanted.items():
            present = f"present_{output.removeprefix('new_')}"
            written = [form[output] if output in form else form[present][:, :, PAST : PAST + TOKENS] for form in newer]
            for each in (found[output], *written):
                assert np.abs(each - values).max() <= bound * np.abs(values).max(), (low.name, output)


@pytest.mark.parametrize(
    ("bits", "block", "inputs"), [(4, 128, 256), (4, 64, 192), (4, 32, 96), (8, 128, 256), (4, 16, 40)]
)
def test_stored_matrices_keep_their_weights(bits: int, block: int, inputs: int, tmp_path: Path):
    rng = np.random.default_rng(bits)
    weights = rng.standard_normal((6, inputs)).astype(np.float32)
    weights[0, :block] = 0  # a scale of zero
    weights[1, :block] = np.abs(weights[1, :block]).max()  # a scale below zero, and its longest code
    stored = quantize_rows(weights, bits, block)  # type: ignore[arg-type]
    assert (stored.scales < 0).any() == (bits == 4)
    (tmp_path / "codes").write_bytes(b"skipped!" + stored.codes.tobytes())
    matrix = StoredMatrix(tmp_path / "codes", 8, (6, inputs), bits, block, stored.scales)
    wanted = dequantize_rows(stored, bits, inputs).T  # type: ignore[arg-type]
    half = np.frombuffer(b"".join(matrix.float_blocks(FLOAT16)), np.float16).reshape(inputs, 6)
    np.testing.assert_array_equal(half, wanted.astype(np.float16))
    assert matrix.fits_int4 == (bits == 4 and block >= 64)
    if not matrix.fits_int4:
        return
    raw = np.frombuffer(b"".join(matrix.int4_blocks()), np.uint8).reshape(inputs, 3)
    codes = np.stack((raw & 15, raw >> 4), axis=-1).reshape(inputs, 6).astype(np.int8)
    codes = np.where(codes > 7, codes - 16, codes).astype(np.float64)
    positive = matrix.positive_scales().astype(np.float64)
    assert (positive > 0).all()
    found = codes * np.repeat(positive, block, axis=0)
    found += np.repeat(matrix.missing_scales().astype(np.float64) / block, block, axis=0)  # a mean, not a sum, meets it
    assert np.abs(found - wanted).max() <= 2.0**-11 * 8 * np.abs(stored.scales).max()


def test_a_block_without_a_scale_in_half_precision_adds_nothing(tmp_path: Path):
    """A scale below zero that half precision rounds to zero: its codes are zeros, and nothing is missing from them."""
    (tmp_path / "codes").write_bytes(bytes([0x3C]) * 2 * 64)
    matrix = StoredMatrix(tmp_path / "codes", 0, (2, 128), 4, 128, np.array([[-1e-9], [-1.0]], np.float32))
    assert matrix.fits_int4
    raw = np.frombuffer(b"".join(matrix.int4_blocks()), np.uint8)
    assert set(raw & 15) == {0}
    assert matrix.missing_scales().tolist() == [[0.0, 128.0]]


def test_scales_whose_sum_over_a_block_overflows_are_not_taken_as_int4(tmp_path: Path):
    (tmp_path / "codes").write_bytes(bytes(64 * 2))
    for scale, fits in ((-500.0, True), (-600.0, False)):
        matrix = StoredMatrix(tmp_path / "codes", 0, (2, 128), 4, 128, np.full((2, 1), scale, np.float32))
        assert (matrix.fits_half, matrix.fits_int4) == (True, fits)
        assert not fits or np.isfinite(matrix.missing_scales()).all()


def test_codes_that_lie_in_the_graph_are_refused(tmp_path: Path):
    """The check of graphs lets them pass; ONNX Runtime reads them there."""
    codes, scales = Tensor(UINT8, (2, 1, 64), None, None, bytes(128)), Tensor(FLOAT, (2,), None, None, bytes(8))
    attributes = {"K": 128, "N": 2, "bits": 4, "block_size": 128}
    node = Node("com.microsoft:MatMulNBits", ("x", "w", "s"), ("y",), attributes)
    graph = GraphFile(
        (node,), {"w": codes, "s": scales}, (Declared("x", 1, (1, 1, 128)),), (Declared("y", 1, (1, 1, 2)),)
    )
    with pytest.raises(ValueError, match="'w': expected codes in the data file"):
        lower("g", graph, tmp_path / "g.data")


def test_what_only_resembles_a_norm_stays_as_it_is():
    """As a bundle may have it that was not exported by us: the epsilon comes last, or is computed."""
    low = Lowered("g", inputs={"x": Value(1, (4,))}, outputs={"y": Value(1, (4,))})
    low.weights["gamma"] = Weight(1, (4,), lambda: iter((bytes(16),)))
    mean = low.add("ReduceMean", low.add("Pow", "x", low.scalar(2.0)), low.ints(-1), keepdims=1)
    root = low.add("Sqrt", low.add("Add", mean, low.add("Relu", "x")))
    low.add("Mul", low.add("Div", "x", root), "gamma", out="y")
    assert [step.op for step in modernise(low, 8).steps] == [step.op for step in low.steps]


def test_scales_beyond_half_precision_are_not_taken(tmp_path: Path):
    (tmp_path / "codes").write_bytes(bytes(64 * 2))
    for scale, fits in ((1.0, True), (0.0, True), (1e-6, False), (1e4, False)):
        matrix = StoredMatrix(tmp_path / "codes", 0, (2, 128), 4, 128, np.full((2, 1), scale, np.float32))
        assert matrix.fits_half == fits


def one(op: str, *kinds: int, **attributes: int) -> Lowered:
    low = Lowered("g", steps=[Step(op, tuple(f"i{i}" for i in range(len(kinds))), ("o",), attributes)])
    low.weights = {f"i{i}": Weight(kind, (2,), lambda: iter((bytes(8),))) for i, kind in enumerate(kinds)}
    return low


def test_what_a_version_does_not_take_is_named():
    attention = one("Attention", 1, 1, 1)
    for low, said in (
        (one("Swish", 1), "Swish: not an operator of TensorRT 10.16"),
        (one("RMSNormalization", 1, 1), None),
        (one("Softmax", 7), "Softmax: of type INT64, expected one of FP32, FP16, BF16"),
        (one("Add", 1, 10), "Add: inputs of types FP32, FP16, expected one type"),
        (one("DequantizeLinear", 22, 10), "DequantizeLinear: scales must be above zero"),
        (one("DequantizeLinear", 22, 10, 22), "DequantizeLinear: a zero point"),
        (one("TensorScatter", 1, 1, 7, axis=1), "TensorScatter: an axis other than -2"),
        (attention, "Attention: inputs other than queries, keys, values and mask, or more than one output"),
        (replace(one("Add", 1, 1), opset=25), "opset 25, expected at most 24"),
    ):
        assert next(refusals(low, NEW), None) == said
    moved = one("ReduceMean", 1, 7)
    moved.inputs["i1"] = moved.weights.pop("i1")  # type: ignore[assignment]
    assert list(refusals(moved, NEW)) == ["ReduceMean: input 1 must be stored"]
    assert list(refusals(one("RMSNormalization", 1, 1), OLD)) == ["RMSNormalization: not an operator of TensorRT 10.3"]


def test_the_lowering_follows_the_librarys_version():
    found = {
        name: version_for(name) for name in ("10.3.0.30", "10.15.2", "10.16.2.10", "10.20", "10.2.0", "11.4.0", "8.6")
    }
    assert [v and v.name for v in found.values()] == ["10.3", "10.3", "10.16", "10.16", None, None, None]
