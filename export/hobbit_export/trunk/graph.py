"""A small ONNX graph builder: names nodes, keeps vectors inline and matrices in one external data file.

ONNX Runtime maps external data and drops the mapping of what it repacks: matrices. Vectors (norms, biases, scales) are
used as they are, so they go inline, where they become anonymous memory. See docs/adr/0011-trunk-memory.md.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edge_runtime.base.arrays import F32
from hobbit_export.trunk.data_file import DataFile, Region

OPSET = 18
_IR_VERSION = 8  # the first that knows opset 18: older runtimes refuse a newer one they do not need
_CONTRIB = "com.microsoft"

Dims = Sequence[int | str]


class Graph:
    """Collects nodes in topological order, then writes them."""

    def __init__(self, name: str, data: DataFile | None = None, *, fused: bool = False) -> None:
        """Start an empty graph.

        Args:
            name: of the graph.
            data: file of its weights; without it the graph has none.
            fused: use ONNX Runtime's own operators.
        """
        self._data, self.fused = data, fused
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    @property
    def data(self) -> DataFile:
        """The file of the weights."""
        assert self._data is not None, "the graph was started without a data file"
        return self._data

    def input(self, name: str, dims: Dims) -> str:
        """Declare a float32 input and return its name."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims)))
        return name

    def output(self, value: str, name: str, dims: Dims) -> str:
        """Declare a float32 output which is `value`, a node's; return `name`, as it is called from now on."""
        for node in self._nodes:
            for names in (node.input, node.output):
                for i, used in enumerate(names):
                    if used == value:
                        names[i] = name
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims)))
        return name

    def node(self, op: str, *inputs: str, contrib: bool = False, **attributes: Any) -> str:
        """Append a node with one output and return the output's name."""
        return self.nodes(op, 1, *inputs, contrib=contrib, **attributes)[0]

    def nodes(
        self, op: str, num_outputs: int, *inputs: str, contrib: bool = False, unused: Sequence[int] = (),
        **attributes: Any,
    ) -> list[str]:  # fmt: skip
        """Append a node and return its outputs' names; those of `unused` ones are empty, and not computed."""
        name = f"{op.lower()}_{len(self._nodes)}"
        numbered = ["" if i in unused else f"{name}_{i}" for i in range(num_outputs)]
        outputs = [name] if num_outputs == 1 else numbered
        domain = _CONTRIB if contrib else ""
        self._nodes.append(helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs

    def ints(self, *values: int) -> str:
        """Return an inline int64 [n] constant."""
        return self._inline(np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """Return an inline float32 scalar constant."""
        return self._inline(np.array(value, np.float32))

    def matrix(self, name: str, dtype: type[np.generic], shape: Sequence[int]) -> tuple[str, Region]:
        """Declare a matrix in the data file; the caller fills its region."""
        region = self.data.reserve(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.data.path.name), ("offset", region.offset), ("length", region.length)):
            tensor.external_data.add(key=key, value=str(value))
        self._initializers.append(tensor)
        return name, region

    def vector(self, name: str, values: F32) -> str:
        """Store a small weight (a norm, a bias, scales) inside the graph and return its name."""
        self._initializers.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
        return name

    def save(self, path: Path) -> None:
        """Write the graph beside its data file, whole or not at all."""
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, self._initializers)
        domains = {node.domain for node in self._nodes} | {""}
        imports = [helper.make_opsetid(domain, 1 if domain else OPSET) for domain in sorted(domains)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION, producer_name="hobbit-export")
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        os.replace(temporary, path)

    def _inline(self, values: NDArray[Any]) -> str:
        name = f"const_{len(self._initializers)}"
        self._initializers.append(onnx.numpy_helper.from_array(values, name))
        return name
