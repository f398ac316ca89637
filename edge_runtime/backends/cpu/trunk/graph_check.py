"""A graph before ONNX Runtime reads it: known operators, and no value larger than the memory plan counts on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from edge_runtime.backends.cpu.trunk.external_data import regions_in
from edge_runtime.backends.cpu.trunk.graph_file import GraphFile, Node, read_graph
from edge_runtime.backends.cpu.trunk.graph_operators import OPERATORS
from edge_runtime.backends.cpu.trunk.graph_values import Operator, Value
from edge_runtime.backends.cpu.trunk.signature import Declared, Dims, Signature, check_signature
from edge_runtime.base.errors import BundleError, did_you_mean

_SIZES = ((1021, 1), (7, 65537))
"""Tokens and cached tokens the shapes are worked out for: many of one at a time show what grows with which."""
_LIVE = 32
"""Values of the largest size that all values of a graph together may come to; ours come to half of it at most."""
_TYPES = {1: "tensor(float)", 7: "tensor(int64)"}


def read_checked(path: Path, part: str, signature: Signature, *, oldest: bool = True) -> GraphFile:
    """Read the file of a graph, which has its data file beside it, and refuse what `check_graph` refuses.

    Args:
        path: of the file.
        part: name of the graph.
        signature: what the format says of it.
        oldest: take rotary angles of [1, 1, T, R/2] too, as builds before fused operators declared them.

    Raises:
        BundleError: the file cannot be read, or is not of the exporter's kind.
    """
    try:
        data = path.with_suffix(".data")
        raw, data_bytes = path.read_bytes(), data.stat().st_size if data.exists() else 0
    except OSError as err:
        raise BundleError(f"{part}: cannot be opened: {err.strerror}. Export the bundle again.") from err
    return check_graph(part, raw, data_bytes, signature, oldest=oldest)


def check_graph(part: str, raw: bytes, data_bytes: int, signature: Signature, *, oldest: bool = False) -> GraphFile:
    """Return what a graph holds; refuse it if it is not of the exporter's kind.

    Args:
        part: its name.
        raw: its bytes.
        data_bytes: size of the data file beside it.
        signature: what it must have as inputs and outputs, and how large its values may get.
        oldest: see `read_checked`.

    Raises:
        BundleError: names the part and what was expected.
    """
    try:
        graph = read_graph(raw)
        _check_stored(graph, part.rpartition("/")[2].removesuffix(".onnx") + ".data", data_bytes)
    except ValueError as err:
        raise _refused(part, str(err)) from err
    if oldest:
        signature = _with_oldest_angles(signature, graph)
    for what, expected, declared in (
        ("input", signature.inputs, graph.inputs), ("output", signature.outputs, graph.outputs)
    ):  # fmt: skip
        found = [Declared(name, _TYPES.get(kind, f"type {kind}"), dims) for name, kind, dims in declared]
        check_signature(part, what, expected, found)
    for tokens, cached in _SIZES:
        try:
            _check_values(graph, signature, tokens, cached)
        except ValueError as err:
            raise _refused(part, str(err)) from err
    return graph


def _with_oldest_angles(signature: Signature, graph: GraphFile) -> Signature:
    """Return the signature with angles of as many dims as the graph declares, if those are the oldest builds'."""
    declared = {name for name, _, dims in graph.inputs if name in ("cos", "sin") and len(dims) == 4}
    angles = {name: (1, 1, *dims) for name, dims in signature.inputs.items() if name in declared and len(dims) == 2}
    return signature._replace(inputs={**signature.inputs, **angles})


def _check_stored(graph: GraphFile, data_file: str, data_bytes: int) -> None:
    """Every matrix lies in the data file, and no two of them in the same bytes: each is copied when it is loaded."""
    regions = regions_in(graph, data_file)
    for name, region in regions.items():
        if region.offset + region.length > data_bytes:
            raise ValueError(f"tensor {name}: expected its bytes in a data file of {data_bytes}")
    if sum(region.length for region in regions.values()) > data_bytes:
        raise ValueError(f"tensors: expected at most {data_bytes} bytes, those of the data file")


def _check_values(graph: GraphFile, signature: Signature, tokens: int, cached: int) -> None:
    """Work out every shape for a number of tokens and of cached tokens."""
    values = {name: Value(t.kind, t.dims, t.ints, is_stored=True) for name, t in graph.tensors.items()}
    inputs = _inputs(signature, tokens, cached)
    if values.keys() & inputs.keys():
        raise ValueError("an input and a tensor of the same name")
    values |= inputs
    largest = signature.growth.largest(tokens, cached)
    total = 0
    for node in graph.nodes:
        for name, value in _outputs(node, values).items():
            size = math.prod(value.dims)
            total += size
            if size > largest or total > _LIVE * largest:
                raise ValueError(
                    f"{node.op}: a value of {size} numbers for {tokens} tokens, expected {largest} at most"
                )
            if name in values:
                raise ValueError(f"{name} is written twice")
            values[name] = value
    _check_outputs(signature, values, tokens)


def _inputs(signature: Signature, tokens: int, cached: int) -> dict[str, Value]:
    return {name: Value(1, _sized(dims, tokens, cached)) for name, dims in signature.inputs.items()}


def _sized(dims: Dims, tokens: int, cached: int) -> tuple[int, ...]:
    sizes = {"T": tokens, "S": cached, "S_plus_T": cached + tokens, "P": 1}
    return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in dims)


def _outputs(node: Node, values: Mapping[str, Value]) -> dict[str, Value]:
    """Return what a node writes, by name."""
    operator = OPERATORS.get(node.op)
    if operator is None:
        raise ValueError(f"operator {node.op[:80]!r} is not one the exporter writes.{did_you_mean(node.op, OPERATORS)}")
    _check_node(node, operator)
    missing = [name for name in node.inputs if name not in values]
    if missing:
        raise ValueError(f"{node.op}: input {missing[0]!r} is not known yet")
    try:
        found = operator.shape([values[name] for name in node.inputs], node.attributes)
    except ValueError as err:
        raise ValueError(f"{node.op}: {err}") from err
    if len(node.outputs) > len(found) or not node.outputs or (node.op == "Split" and len(node.outputs) != len(found)):
        raise ValueError(f"{node.op}: expected {len(found)} outputs, got {len(node.outputs)}")
    named = [(name, value) for name, value in zip(node.outputs, found, strict=False) if name]
    if len(dict(named)) != len(named):
        raise ValueError(f"{node.op}: an output is there twice")
    return dict(named)


def _check_node(node: Node, operator: Operator) -> None:
    least, most = operator.inputs
    if not least <= len(node.inputs) <= most:
        raise ValueError(f"{node.op}: expected {least} to {most} inputs, got {len(node.inputs)}")
    for name, value in node.attributes.items():
        allowed = operator.attributes.get(name, ())
        if allowed is not None and value not in allowed:
            raise ValueError(f"{node.op}: attribute {name!r} of {value} is not one the exporter writes")


def _check_outputs(signature: Signature, values: Mapping[str, Value], tokens: int) -> None:
    for name, dims in signature.outputs.items():
        expected = _sized(dims, tokens, 0)
        if name not in values or values[name].dims != expected or values[name].kind != 1:
            raise ValueError(f"output {name!r}: expected {list(expected)} for {tokens} tokens")


def _refused(part: str, what: str) -> BundleError:
    return BundleError(f"{part}: {what[:300]}. Export the bundle again.")
