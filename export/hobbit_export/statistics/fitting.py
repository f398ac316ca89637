"""Fits the two-bit tables of an expert while its rows pass to the encoder; what is kept of them is outputs."""

from __future__ import annotations

import numpy as np

from edge_runtime.backends.cpu.activation import expert_hidden
from edge_runtime.base.arrays import F32, F64, U8
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.record import PANEL, RecordLayout
from hobbit_export.statistics.inputs import ROUTED, SHARED, LayerInputs
from hobbit_export.statistics.panels import Panels
from hobbit_export.statistics.tables import Inputs, fit

_NUMBERS = 1 << 15
"""Weights fitted at a time: few enough that the arrays made of them stay in a processor's cache."""
_COPIES = 14
_DOWN = 2


def fitting_bytes(spec: ModelSpec) -> int:
    """Memory that fitting takes at most: blocks of weights, and inputs and outputs of the samples."""
    samples = 8 * (ROUTED + SHARED)
    widest = max(spec.hidden, spec.experts.intermediate)
    return 8 * _COPIES * max(_NUMBERS, PANEL * widest) + samples * (4 * spec.hidden + 12 * spec.experts.intermediate)


class ExpertFit:
    """One expert of a layer.

    Args:
        spec: the model.
        layout: of its records.
        inputs: of the layer.
        expert_idx: the expert.
    """

    def __init__(self, spec: ModelSpec, layout: RecordLayout, inputs: LayerInputs, expert_idx: int) -> None:
        self._experts, self._layout = spec.experts, layout
        x, self._roots = inputs.of(expert_idx)
        self._given = (Inputs.of(x * self._roots),) * 2
        shape = (2, len(x), spec.experts.intermediate)
        self._gate, self._up = (np.zeros(shape) for _ in range(2))
        self._tables: list[tuple[int, int, U8]] = []
        self._has_hidden, self._residual, self._total = False, 0.0, 0.0

    def add(self, matrix: int, start: int, weights: F32, base: U8, bias: F32 | None = None) -> None:
        """Fit rows that the encoder has just taken.

        Args:
            matrix: 0 gate, 1 up, 2 down.
            start: the first row.
            weights: float32 [R, K].
            base: the record's base segment as it is now.
            bias: of the whole matrix, with its first rows.
        """
        if matrix == _DOWN and not self._has_hidden:
            self._given, self._has_hidden = self._hidden(), True
        elif bias is not None and matrix != _DOWN:
            self._outputs(matrix)[...] = bias
        panels = Panels(self._layout, matrix, fp4=self._experts.codes == "fp4")
        step = max(PANEL, _NUMBERS // panels.cols // PANEL * PANEL)
        for first in range(0, len(weights), step):
            block = weights[first : first + step]
            at = start + first
            fitted = fit(panels.read(base, at, at + len(block)), block, *self._given)
            self._tables.append((matrix, at, fitted.tables))
            self._residual += fitted.residual
            self._total += float(np.square(block, dtype=np.float64).sum())
            if matrix != _DOWN:
                outputs = self._outputs(matrix)[:, :, at : at + len(block)]
                outputs += np.stack((fitted.outputs, fitted.coarse)) / self._roots

    def finish(self, base: U8) -> U8:
        """Return a copy of the finished base segment with the fitted tables."""
        fitted: U8 = base.copy()
        for matrix, start, tables in self._tables:
            Panels(self._layout, matrix).write(fitted, start, tables)
        return fitted

    @property
    def error(self) -> float:
        """Relative error of the weights at two bits."""
        return float(np.sqrt(self._residual / self._total)) if self._total else 0.0

    def _outputs(self, matrix: int) -> F64:
        return self._up if matrix else self._gate

    def _hidden(self) -> tuple[Inputs, Inputs]:
        """What the down matrix gets: from the source's matrices, and from those of two bits."""
        gates = self._gate if self._experts.gated else (None, None)
        exact, coarse = (expert_hidden(self._experts, g, up) for g, up in zip(gates, self._up, strict=True))
        del self._gate, self._up
        return Inputs.of(exact * self._roots), Inputs.of(coarse * self._roots)
