"""Where a graph says its weights lie: beside it, in the one file of the format, and nowhere else."""

from __future__ import annotations

from edge_runtime.backends.cpu.trunk.graph_file import GraphFile, Region, read_graph
from edge_runtime.base.errors import BundleError


def check_external_data(part: str, graph: bytes, data_file: str) -> dict[str, Region]:
    """Refuse a graph whose external data is anywhere but in `data_file` beside it; return where each matrix lies.

    Old releases of ONNX Runtime follow ``../`` in such a location. `read_graph` takes no subgraph, function, attribute
    or field given twice that could name another one.

    Args:
        part: name of the graph, for the error.
        graph: the file's bytes.
        data_file: the only file name allowed.

    Returns:
        The region of every initializer with external data, by the initializer's name. Whether it lies inside the file
        is not checked.

    Raises:
        BundleError: another location, or one written in a way we do not write it.
    """
    try:
        return regions_in(read_graph(graph), data_file)
    except ValueError as err:
        raise BundleError(
            f"{part}: external data: expected {data_file!r} beside the graph, got something else ({str(err)[:200]}). "
            "Export the bundle again."
        ) from err


def regions_in(graph: GraphFile, data_file: str) -> dict[str, Region]:
    """Return where the matrices lie, by name.

    Raises:
        ValueError: one lies elsewhere than in the data file.
    """
    found = {name: tensor.region for name, tensor in graph.tensors.items() if tensor.region is not None}
    for name, region in found.items():
        if region.location != data_file:
            raise ValueError(f"tensor {name}: external data: expected {data_file!r}, got {region.location[:80]!r}")
    return found
