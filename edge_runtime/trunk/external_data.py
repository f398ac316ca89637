"""Where a graph says its weights lie: beside it, in the one file of the format, and nowhere else."""

from __future__ import annotations

import re

from edge_runtime.errors import BundleError

# key "location" of an ONNX StringStringEntryProto, then its value: both length-delimited, lengths below 128
_ENTRY = re.compile(rb"\x0a\x08location\x12([\x00-\x7f])", re.DOTALL)


def check_external_data(part: str, graph: bytes, data_file: str) -> None:
    """Refuse a graph whose external data is anywhere but in `data_file` beside it.

    Old releases of ONNX Runtime follow ``../`` in such a location. The graph is not decoded: every mention of the key
    must have the plain form that the exporter writes, so whatever hides a location in another encoding is refused.

    Args:
        part: name of the graph, for the error.
        graph: the file's bytes.
        data_file: the only file name allowed.

    Raises:
        BundleError: another location, or one written in a way we do not write it.
    """
    entries = list(_ENTRY.finditer(graph))
    values = {graph[e.end() : e.end() + e.group(1)[0]] for e in entries}
    if len(entries) != graph.count(b"location") or values - {data_file.encode()}:
        raise BundleError(
            f"{part}: external data: expected {data_file!r} beside the graph, got something else. "
            "Export the bundle again."
        )
