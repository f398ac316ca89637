"""What the graph builder writes: valid ONNX, only operators TensorRT 10.3 knows, the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from state_dict_weights import STATE_DICT_CASES, relative_error, trunk_case
from trunk_bundles import TrunkBundles, write_trunk

from edge_runtime.base.arrays import F32
from hobbit_export.trunk.data_file import DataFile
from hobbit_export.trunk.graph import Graph
from hobbit_export.trunk.linear import LinearWriter, Matrix, Precision
from hobbit_export.trunk.quantize import block_size_for, dequantize_rows, quantize_rows

# operators of lowering P, every one in the parser of TensorRT 10.1 and later
TENSORRT_OPS = {
    "Add", "Clip", "Concat", "Div", "Identity", "MatMul", "Mul", "Pow", "ReduceMean", "Reshape", "Shape", "Sigmoid",
    "Softmax", "Split", "Sqrt", "Sub", "Tanh", "Transpose",
}  # fmt: skip


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> TrunkBundles:
    return TrunkBundles(tmp_path_factory.mktemp("graphs"))


@pytest.mark.oracle
@pytest.mark.parametrize("name", STATE_DICT_CASES)
def test_float32_graphs_are_portable(bundles: TrunkBundles, name: str) -> None:
    path, case = bundles.get(name, "fp32")
    graphs = sorted((path / "trunk").glob("*.onnx"))
    shared = sum(layer.shared is not None for layer in case.spec.layers)
    assert len(graphs) == case.spec.num_layers + shared + len(("head", "routers"))
    for graph in graphs:
        onnx.checker.check_model(str(graph), full_check=True)
        model = onnx.load(graph, load_external_data=False)
        assert {n.op_type for n in model.graph.node} <= TENSORRT_OPS
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]


@pytest.mark.oracle
@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_matrices_are_external_and_aligned_and_vectors_inline(bundles: TrunkBundles, precision: Precision) -> None:
    path, _ = bundles.get("qwen2_moe", precision)
    for graph in (path / "trunk").glob("*.onnx"):
        model, end = onnx.load(graph, load_external_data=False), 0
        if graph.stem == "routers":  # they are handed to it
            assert not model.graph.initializer
            continue
        for tensor in model.graph.initializer:
            external = {entry.key: entry.value for entry in tensor.external_data}
            assert (len(tensor.dims) > 1) == bool(external)
            if external:
                assert external["location"] == graph.with_suffix(".data").name
                assert int(external["offset"]) % 64 == 0
                end = max(end, int(external["offset"]) + int(external["length"]))
        assert graph.with_suffix(".data").stat().st_size == end
        exact = [t for t in model.graph.initializer if "router" in t.name or "shared_expert_gate" in t.name]
        assert len(exact) == (0 if graph.stem == "head" else 1)
        assert all(t.data_type == onnx.TensorProto.FLOAT for t in exact)


@pytest.mark.oracle
@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_memory_hint_does_not_change_a_byte(tmp_path: Path, precision: Precision) -> None:
    case = trunk_case("qwen2_moe")
    outs = [
        write_trunk(case.spec, case.weights, tmp_path / str(size), precision, size) for size in (1, 100_000, 1 << 30)
    ]
    assert len({tuple(f.read_bytes() for f in files) for files in outs}) == 1


class _OneMatrix:
    def __init__(self, weight: F32) -> None:
        self._weight = weight

    def get(self, name: str) -> F32:
        return self._weight

    def rows(self, name: str, start: int, stop: int) -> F32:
        return self._weight[start:stop]


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("inputs", [128, 192, 96, 144, 72, 40])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantised_product_is_the_dequantised_matrix(
    tmp_path: Path, precision: Precision, inputs: int, tokens: int
) -> None:  # fmt: skip
    """With float activations (accuracy level 0) ONNX Runtime must see exactly our weights; level 4 rounds inputs."""
    rng = np.random.default_rng(inputs)
    w = rng.standard_normal((50, inputs), dtype=np.float32)
    x = rng.standard_normal((1, tokens, inputs), dtype=np.float32)
    with DataFile(tmp_path / "m.data") as data:
        graph = Graph("m", data)
        writer = LinearWriter(graph, _OneMatrix(w), precision, 1 << 20)
        y = writer.product(graph.input("x", (1, "T", inputs)), Matrix("w", ("w",), (50,), inputs))
        graph.output(y, "y", (1, "T", 50))
        graph.save(tmp_path / "m.onnx")
    bits = 8 if precision == "int8" else 4
    expected = x @ dequantize_rows(quantize_rows(w, bits, block_size_for(inputs)), bits, inputs).T  # type: ignore[arg-type]
    assert relative_error(_run(tmp_path / "m.onnx", x), expected) < 0.02
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    for attribute in (a for node in model.graph.node for a in node.attribute if a.name == "accuracy_level"):
        assert attribute.i == 4
        attribute.i = 0
    (tmp_path / "exact.onnx").write_bytes(model.SerializeToString())
    assert relative_error(_run(tmp_path / "exact.onnx", x), expected) < 2e-6


def _run(path: Path, x: F32) -> F32:
    y: F32 = onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0]
    return y
