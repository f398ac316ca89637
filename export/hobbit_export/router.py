"""router/: the arrays a model's rule needs besides its router matrices, one file for all sparse layers."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.router_data import router_arrays, router_file, router_parts
from hobbit_export.source import SourceModel


def write_router_data(source: SourceModel, out: Path) -> list[str]:
    """Write the arrays below folder `out` and return their names in the bundle.

    Raises:
        BundleError: they are nothing a router can use.
    """
    data, names = source.router_data(), []
    for field, (kind, _) in router_arrays(source.spec).items():
        names.append(router_file(field))
        (out / names[-1]).parent.mkdir(parents=True, exist_ok=True)
        getattr(data, field).astype(kind, copy=False).tofile(out / names[-1])
    return names


def router_memory_bytes(spec: ModelSpec) -> int:
    """Return the peak of reading the arrays: all of them twice, and the steps of converting one layer's int64 table."""
    hashed = 28 * spec.vocab_size * spec.router.top_k if spec.router.hashed_layers else 0
    return 2 * sum(router_parts(spec).values()) + hashed
