"""Layers' graphs that tests change, and the check of graphs on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.backends.cpu.trunk.graph_check import check_graph
from edge_runtime.backends.cpu.trunk.signature import (
    Signature,
    head_signature,
    layer_signature,
    routers_signature,
    shared_signature,
)
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.bundle import Bundle

PART = "trunk/layer_000.onnx"


def signature_of(name: str, spec: ModelSpec) -> Signature:
    kind, _, number = name.partition("_")
    if kind in ("layer", "shared"):
        return layer_signature(spec, int(number)) if kind == "layer" else shared_signature(spec, int(number))
    return head_signature(spec) if kind == "head" else routers_signature(spec)


class Changed:
    """A layer's graph that may be changed and checked again."""

    def __init__(self, bundle: Path, part: str = PART) -> None:
        self.part, spec = part, Bundle.open(bundle).manifest.model
        self.model = onnx.load(bundle / part, load_external_data=False)
        self.data_bytes = (bundle / part).with_suffix(".data").stat().st_size
        self.signature = signature_of(Path(part).stem, spec)

    @property
    def graph(self) -> Any:
        return self.model.graph

    def node(self, op: str) -> Any:
        return next(node for node in self.graph.node if node.op_type == op)

    def add(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        """Put a node behind all others; it may use every value."""
        names = [f"added_{len(self.graph.node)}_{i}" for i in range(outputs)]
        self.graph.node.append(helper.make_node(op, inputs, names, domain=domain, **attributes))
        return names[0]

    def constant(self, values: Any) -> str:
        name = f"constant_{len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def check(self, *, oldest: bool = False) -> None:
        check_graph(self.part, self.model.SerializeToString(), self.data_bytes, self.signature, oldest=oldest)


def body(**inputs: Any) -> Any:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    return helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "body", [], [value])
