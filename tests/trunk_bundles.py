"""Trunk parts of family cases, built once per test run, and weights as the quantised graphs see them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from state_dict_weights import TrunkCase, trunk_case

from edge_runtime.backends.cpu.trunk.weight_source import TrunkWeights
from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import ModelSpec
from hobbit_export.trunk.linear import BITS, Precision
from hobbit_export.trunk.parts import build_head, build_layer, build_routers, build_shared, write_embedding
from hobbit_export.trunk.quantize import block_size_for, dequantize_rows, quantize_rows

_QUANTISED = {"q", "k", "v", "q_gate", "o", "head", *(f"linear_{name}" for name in "qkvzo")} | {
    f"{kind}_{m}_proj" for kind in ("shared", "dense") for m in ("gate", "up", "down")
}


def write_trunk(
    spec: ModelSpec, weights: TrunkWeights, out: Path, precision: Precision, memory_bytes: int = 1 << 20
) -> list[Path]:
    """Write every trunk part into `out` and return the files."""
    files = [
        *build_head(spec, weights, out, precision, memory_bytes),
        *build_routers(spec, weights, out, memory_bytes),
        *write_embedding(spec, weights, out, memory_bytes),
    ]
    for i, layer in enumerate(spec.layers):
        files += build_layer(spec, i, weights, out, precision, memory_bytes)
        if layer.shared is not None:
            files += build_shared(spec, i, weights, out, precision, memory_bytes)
    return files


class TrunkBundles:
    """Builds on demand, below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.case = lru_cache(None)(trunk_case)

    def get(self, case: str, precision: Precision) -> tuple[Path, TrunkCase]:
        """Return (directory, model) of a family case."""
        out, made = self._folder / f"{case}-{precision}", self.case(case)
        if not out.exists():
            write_trunk(made.spec, made.weights, out, precision)
        return out, made


class FakeQuantised:
    """TrunkWeights that went through quantisation and back where the graphs of a precision store codes."""

    def __init__(self, weights: TrunkWeights, precision: Precision) -> None:
        self._weights = weights
        self._bits = BITS[precision]

    def get(self, name: str) -> F32:
        return self._through(name, self._weights.get(name))

    def rows(self, name: str, start: int, stop: int) -> F32:
        return self._through(name, self._weights.rows(name, start, stop))

    def _through(self, name: str, w: F32) -> F32:
        if name.split(".")[-1] not in _QUANTISED:
            return w
        inputs = w.shape[1]
        return dequantize_rows(quantize_rows(w, self._bits, block_size_for(inputs)), self._bits, inputs)
