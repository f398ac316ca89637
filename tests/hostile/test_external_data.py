"""A graph may not point outside the bundle, however its location is written; every graph we write is accepted."""

from __future__ import annotations

import onnx
import pytest

from edge_runtime.errors import BundleError
from edge_runtime.trunk.external_data import check_external_data


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
