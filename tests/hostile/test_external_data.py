"""A graph may not point outside the bundle, however its location is written; every graph we write is accepted."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from google.protobuf.message import DecodeError

from edge_runtime.backends.cpu.trunk.external_data import check_external_data
from edge_runtime.base.errors import BundleError


def graph_bytes(bundle) -> bytes:
    return (bundle / "trunk" / "layer_000.onnx").read_bytes()


def test_graphs_of_the_exporter_are_accepted(model_bundle):
    for path in (model_bundle / "trunk").glob("*.onnx"):
        check_external_data(path.name, path.read_bytes(), path.with_suffix(".data").name)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "other.data", "a/../layer_000.data", "x" * 200])
def test_other_locations_are_refused(model_bundle, location):
    model = onnx.load_from_string(graph_bytes(model_bundle))
    entry = next(e for t in model.graph.initializer for e in t.external_data if e.key == "location")
    entry.value = location
    with pytest.raises(BundleError, match="external data"):
        check_external_data("layer", model.SerializeToString(), "layer_000.data")


def test_other_encodings_of_the_key_are_refused(model_bundle):
    plain = b"\x0a\x08location\x12\x0elayer_000.data"
    graph = graph_bytes(model_bundle)
    assert plain in graph
    for hidden in (
        b"\x0a\x88\x00location\x12\x0elayer_000.data",  # a longer varint for the same length
        b"\x12\x0elayer_000.data\x0a\x08location",  # value before key
        b"\x0a\x08location\x12\x8e\x00layer_000.data",
    ):
        with pytest.raises(BundleError, match="external data"):
            check_external_data("layer", graph.replace(plain, hidden, 1), "layer_000.data")


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def rebuilt(graph: bytes, entry: Callable[[str, str], bytes], extra: bytes = b"") -> bytes:
    """The same model with its external data entries written by `entry(key, value)`, and `extra` in every tensor."""
    model = onnx.load_from_string(graph)
    tensors = [onnx.TensorProto.FromString(t.SerializeToString()) for t in model.graph.initializer]
    del model.graph.initializer[:]
    body = model.graph.SerializeToString()
    for tensor in tensors:
        entries = [(e.key, e.value) for e in tensor.external_data]
        del tensor.external_data[:]
        raw = tensor.SerializeToString() + b"".join(field(13, entry(k, v)) for k, v in entries)
        body += field(5, raw + (extra if entries else b""))
    model.ClearField("graph")
    return model.SerializeToString() + field(7, body)


def plain(key: str, value: str) -> bytes:
    return field(1, key.encode()) + field(2, value.encode())


def locations(graph: bytes) -> set[str]:
    """What protocol buffers, and so ONNX Runtime, make of it."""
    model = onnx.load_from_string(graph)
    return {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}


@pytest.mark.parametrize("target", ["layer_001.data", "../../x", "/etc/passwd"])
def test_a_second_value_in_an_entry_is_refused(model_bundle, target):
    """Protocol buffers keep the last of a field given twice."""

    def twice(key: str, value: str) -> bytes:
        return plain(key, value) + (field(2, target.encode()) if key == "location" else b"")

    graph = rebuilt(graph_bytes(model_bundle), twice)
    assert locations(graph) == {target}
    with pytest.raises(BundleError, match="external data"):
        check_external_data("layer", graph, "layer_000.data")


def test_a_good_entry_inside_another_field_hides_nothing(model_bundle):
    """What looks like a whole entry may lie in an unknown field of the true one."""

    def hidden(key: str, value: str) -> bytes:
        if key != "location":
            return plain(key, value)
        return field(15, field(13, plain(key, value))[:2]) + plain(key, value) + field(2, b"../../x")

    graph = rebuilt(graph_bytes(model_bundle), hidden)
    assert locations(graph) == {"../../x"}
    with pytest.raises(BundleError, match="external data"):
        check_external_data("layer", graph, "layer_000.data")


def test_a_second_location_and_further_entries_are_refused(model_bundle):
    graph = graph_bytes(model_bundle)
    check_external_data("layer", rebuilt(graph, plain), "layer_000.data")
    for extra in (field(13, plain("location", "../x")), field(13, plain("offset", "0")), field(13, b"")):
        with pytest.raises(BundleError, match="external data"):
            check_external_data("layer", rebuilt(graph, plain, extra), "layer_000.data")


def test_locations_outside_the_initializers_are_refused(model_bundle):
    model = onnx.load_from_string(graph_bytes(model_bundle))
    tensor = model.graph.node[0].attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="layer_000.data")
    with pytest.raises(BundleError, match="external data"):
        check_external_data("layer", model.SerializeToString(), "layer_000.data")


def test_damaged_graphs_never_crash(model_bundle):
    graph = graph_bytes(model_bundle)
    for at in range(0, len(graph), 7):
        for damaged in (graph[:at], graph[:at] + b"\xff" + graph[at + 1 :]):
            try:
                check_external_data("layer", damaged, "layer_000.data")
            except BundleError:
                continue
            try:
                found = locations(damaged)
            except DecodeError:
                continue  # ONNX Runtime will not read it either
            assert found <= {"layer_000.data"}
