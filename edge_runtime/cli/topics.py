"""`hobbit help policy|eviction|prefetch|power-meter`: what these options take, from their registries."""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.config.options import BY_NAME
from edge_runtime.config.registries import REGISTRIES


def describe(name: str) -> Iterator[str]:
    """Yield lines: what the option is, then each name it takes with its parameters."""
    option = BY_NAME[name.replace("-", "_")]
    yield f"--{option.dashed} {option.kind.metavar}: {option.help} (default: {option.shown_default})"
    for entry in REGISTRIES[option.name]:
        yield f"\n{entry.name}: {entry.summary}"
        for key, param in entry.params.items():
            yield f"    {key}={str(param.default).lower():<8} {param.doc}"
