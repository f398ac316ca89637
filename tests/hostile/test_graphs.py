"""ONNX graphs are looked at before ONNX Runtime reads them: known operators, sizes that follow from the model."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle_copies import replace_part
from changed_graph import Changed, body, signature_of
from onnx import TensorProto, helper, numpy_helper
from state_dict_weights import STATE_DICT_CASES
from trunk_bundles import TrunkBundles

from edge_runtime.__main__ import main
from edge_runtime.backends.cpu.trunk.graph_check import check_graph
from edge_runtime.backends.cpu.trunk.graph_file import MAX_NODES
from edge_runtime.backends.cpu.trunk.signature import (
    Growth,
)
from edge_runtime.base.errors import BundleError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.bundle import Bundle
from hobbit_export.trunk.linear import Precision


def check_all(folder: Path, spec: ModelSpec) -> int:
    graphs = sorted((folder / "trunk").glob("*.onnx"))
    for path in graphs:
        data = path.with_suffix(".data")
        size = data.stat().st_size if data.exists() else 0
        check_graph(f"trunk/{path.name}", path.read_bytes(), size, signature_of(path.stem, spec))
    return len(graphs)


def test_every_graph_of_the_bundled_model_passes(model_bundle):
    assert check_all(model_bundle, Bundle.open(model_bundle).manifest.model) > 5


@pytest.mark.oracle
@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_every_graph_of_every_family_passes(tmp_path, precision: Precision):
    made = TrunkBundles(tmp_path)
    for case in STATE_DICT_CASES:
        folder, found = made.get(case, precision)
        assert check_all(folder, found.spec) >= 4


def loop(c: Changed) -> None:
    c.add("Loop", c.constant(np.int64(2**62)), "", "resid", body=body())


def branch(c: Changed) -> None:
    c.add("If", "resid", then_branch=body(), else_branch=body())


def scan(c: Changed) -> None:
    c.add("Scan", "resid", body=body(), num_scan_inputs=1)


def hidden_in_a_known_operator(c: Changed) -> None:
    c.node("Softmax").attribute.append(helper.make_attribute("body", body()))


def function(c: Changed) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    made = helper.make_function("own", "Add", ["x"], ["y"], [node], [helper.make_opsetid("", 18)])
    c.model.functions.append(made)


def fill(c: Changed) -> None:
    c.add("ConstantOfShape", c.constant(np.array([1 << 20, 1 << 10], np.int64)))


def count(c: Changed) -> None:
    c.add("Range", c.constant(np.int64(0)), c.constant(np.int64(2**40)), c.constant(np.int64(1)))


def expand(c: Changed) -> None:
    c.add("Expand", "resid", c.constant(np.array([1 << 20, 1, 1], np.int64)))


def tile(c: Changed) -> None:
    c.add("Tile", "resid", c.constant(np.array([1 << 20, 1, 1], np.int64)))


def other_domain(c: Changed) -> None:
    c.add("Add", "resid", "resid", domain="ai.example")


def python_operator(c: Changed) -> None:
    c.add("PyOp", "resid", domain="com.microsoft")


def doubling(c: Changed) -> None:
    name = "resid"
    for _ in range(30):
        name = c.add("Concat", name, name, axis=0)


def outer_product(c: Changed) -> None:
    flat = c.add("Reshape", "resid", c.constant(np.array([-1, 1], np.int64)))
    row = c.add("Reshape", "moe", c.constant(np.array([1, -1], np.int64)))
    c.add("Add", flat, row)


def large_product(c: Changed) -> None:
    tall = c.add("Reshape", "past_k", c.constant(np.array([-1, 1], np.int64)))
    wide = c.add("Reshape", "past_v", c.constant(np.array([1, -1], np.int64)))
    c.add("MatMul", tall, wide)


def many_copies(c: Changed) -> None:
    for _ in range(MAX_NODES - len(c.graph.node)):
        c.add("Sigmoid", c.node("Softmax").output[0])


def ten_thousand_nodes(c: Changed) -> None:
    for _ in range(10_000):
        c.add("Relu", "resid")


def unknown_input(c: Changed) -> None:
    c.add("Add", "resid", "nowhere")


def cycle(c: Changed) -> None:
    first = c.graph.node[0]
    first.input[0] = c.graph.node[-1].output[0]


def written_twice(c: Changed) -> None:
    c.graph.node.append(c.graph.node[0])


def input_of_a_tensors_name(c: Changed) -> None:
    c.graph.initializer.append(numpy_helper.from_array(np.zeros(4, np.float32), "resid"))


def tensor_twice(c: Changed) -> None:
    c.graph.initializer.append(c.graph.initializer[0])


def tensor_of_another_size(c: Changed) -> None:
    next(t for t in c.graph.initializer if t.raw_data).dims[:] = [1 << 30]


def tensor_of_overflowing_size(c: Changed) -> None:
    next(t for t in c.graph.initializer if t.external_data).dims[:] = [1 << 30] * 8


def negative_size(c: Changed) -> None:
    next(t for t in c.graph.initializer if t.external_data).dims[0] *= -1


def data_beyond_the_file(c: Changed) -> None:
    c.data_bytes -= 1


def the_same_data_for_all(c: Changed) -> None:
    tensors = [t for t in c.graph.initializer if t.external_data]
    for i in range(20):
        copy = c.graph.initializer.add()
        copy.CopyFrom(tensors[0])
        copy.name = f"copy_{i}"


def texts(c: Changed) -> None:
    c.graph.initializer.append(helper.make_tensor("texts", TensorProto.STRING, [1], [b"x"]))


def half_numbers(c: Changed) -> None:
    c.graph.initializer.append(numpy_helper.from_array(np.zeros(4, np.float16), "half"))


def sparse(c: Changed) -> None:
    tensor = c.graph.sparse_initializer.add()
    tensor.dims[:] = [1 << 40]


def training(c: Changed) -> None:
    c.model.training_info.add()


def metadata(c: Changed) -> None:
    c.model.metadata_props.add(key="a", value="b")


def unknown_attribute(c: Changed) -> None:
    c.node("Softmax").attribute.append(helper.make_attribute("mode", 3))


def attribute_twice(c: Changed) -> None:
    c.node("Softmax").attribute.append(helper.make_attribute("axis", -1))


def other_axis(c: Changed) -> None:
    c.node("Softmax").attribute[0].i = 0


def text_attribute(c: Changed) -> None:
    c.node("Softmax").attribute.append(helper.make_attribute("axis_name", "x"))


def permutation_of_others(c: Changed) -> None:
    c.node("Transpose").attribute[0].ints[:] = [0, 2, 1, 2]


def split_of_other_sizes(c: Changed) -> None:
    c.node("Split").input[1] = c.constant(np.array([1, -1, 1], np.int64))


def shape_that_is_computed(c: Changed) -> None:
    c.node("Reshape").input[1] = "mask"


def two_open_sizes(c: Changed) -> None:
    c.node("Reshape").input[1] = c.constant(np.array([-1, -1], np.int64))


def missing_output(c: Changed) -> None:
    del c.graph.output[0]


def output_of_another_type(c: Changed) -> None:
    c.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def output_of_another_shape(c: Changed) -> None:
    name = c.graph.output[0].name
    source = c.add("Concat", "resid", "resid", axis=1)
    for node in c.graph.node:
        for i, output in enumerate(node.output):
            if output == name:
                node.output[i] = "renamed"
    c.graph.node[-1].output[0] = name
    assert source


FAULTS = [
    loop, branch, scan, hidden_in_a_known_operator, function, fill, count, expand, tile, other_domain, python_operator,
    doubling, outer_product, large_product, many_copies, ten_thousand_nodes, unknown_input, cycle, written_twice,
    input_of_a_tensors_name, tensor_twice, tensor_of_another_size, tensor_of_overflowing_size, negative_size,
    data_beyond_the_file, the_same_data_for_all, texts, half_numbers, sparse, training, metadata, unknown_attribute,
    attribute_twice, other_axis, text_attribute, permutation_of_others, split_of_other_sizes, shape_that_is_computed,
    two_open_sizes, missing_output, output_of_another_type, output_of_another_shape,
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_what_the_exporter_does_not_write_is_refused_by_name(model_bundle, fault: Callable[[Changed], None]):
    changed = Changed(model_bundle)
    changed.check()
    fault(changed)
    started = time.process_time()
    with pytest.raises(BundleError, match=r"trunk/layer_000\.onnx: ") as caught:
        changed.check()
    assert time.process_time() - started < 5
    assert len(str(caught.value)) < 600


def test_values_may_not_outgrow_what_the_plan_counts_on(model_bundle):
    changed = Changed(model_bundle)
    changed.signature = changed.signature._replace(growth=Growth(1))
    with pytest.raises(BundleError, match="expected 1021 at most"):
        changed.check()


@pytest.mark.parametrize("part", ["trunk/layer_001.onnx", "trunk/head.onnx", "trunk/routers.onnx"])
def test_commands_refuse_a_hostile_graph_with_78(bundle, capsys, part):
    model = onnx.load(bundle / part, load_external_data=False)
    source = model.graph.input[0].name
    model.graph.node.append(helper.make_node("Loop", [source, "", source], ["z"], body=body()))
    replace_part(bundle, part, model.SerializeToString())
    command = ["run", str(bundle), "--prompt", "a", "--max-tokens", "1", "--memory", "1GiB", "--context", "64"]
    few = ["--expert-memory", "4MiB", "--prefetch", "lookahead:depth=1"]
    if part == "trunk/routers.onnx":
        few += ["--trunk", "onnx"]  # the native trunk looks ahead with the routers of the layers
    assert main([*command, *few]) == 78
    err = capsys.readouterr().err
    assert f"{part}: " in err
    assert "Traceback" not in err
