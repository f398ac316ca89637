"""calibration/experts.json: what a lower tier, a skip or another route costs, as measured by the exporter."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import BundleError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.base.strict import from_mapping
from edge_runtime.bundle.files import read_regular

NAME = "calibration/experts.json"
VERSION = 2
NUM_QUANTILES = 101
MAX_BYTES = 32 << 20
"""Ten times what 61 layers of 256 experts take."""
_MAX_COUNT = 1 << 53


@dataclass(frozen=True)
class Sensitivity:
    """KL divergence of the output, in nats, for one unit of squared error of a layer's expert sum.

    Attributes:
        quantise: the error comes from experts at a low tier.
        skip: it comes from leaving an expert out, the other weights unchanged.
        substitute: it comes from putting another expert in its place.
    """

    quantise: float
    skip: float
    substitute: float


@dataclass(frozen=True)
class LayerCalibration:
    """One sparse layer.

    Attributes:
        layer: its index.
        errors: tier (as text) -> relative error of each expert's weights.
        counts: how often the calibration text used each expert; this and what follows is None without a text.
        output_errors: tier (as text) -> relative error of each expert's output, against the deepest tier stored.
        norms: root mean square length of each expert's output.
        powers: mean squared weight of each expert's uses; None in bundles of earlier exporters.
        sensitivity: what an error of this layer does to the model's output.
    """

    layer: int
    errors: dict[str, list[float]]
    counts: list[int] | None = None
    output_errors: dict[str, list[float]] | None = None
    norms: list[float] | None = None
    sensitivity: Sensitivity | None = None
    powers: list[float] | None = None


@dataclass(frozen=True)
class PredictionCheck:
    """KL divergence per token with every expert of every layer at one tier: measured, and as the sum of layers says."""

    tier: int
    measured_kld: float
    predicted_kld: float


@dataclass(frozen=True)
class ExpertCalibration:
    """The whole file.

    Attributes:
        version: 2.
        layers: sparse layers in order.
        tokens: of the calibration text; None without one.
        full_tier: the tier errors are measured against.
        score_quantiles: of HOBBIT's score s over all selected experts, 0 % to 100 % in steps of 1.
        checks: how well layers add up.
    """

    version: int
    layers: list[LayerCalibration]
    tokens: int | None = None
    full_tier: int | None = None
    score_quantiles: list[float] | None = None
    checks: list[PredictionCheck] | None = None

    @property
    def is_measured(self) -> bool:
        """Whether a text was run, so that a loss can be predicted."""
        return self.tokens is not None


def parse(text: str | bytes, spec: ModelSpec, where: str = NAME) -> ExpertCalibration:
    """Check untrusted text against the model it claims to be about.

    Raises:
        BundleError: names the key.
    """
    try:
        data: Any = json.loads(text)
        if isinstance(data, dict) and data.get("version") != VERSION:
            raise ValueError(
                f"{where}: version: expected {VERSION}, got {data.get('version')!r}. Export the bundle again"
            )
        found = from_mapping(ExpertCalibration, data, where)
        _check(found, spec, where)
    except (ValueError, RecursionError) as err:
        raise BundleError(f"{err}.") from err
    return found


def read(bundle: Path, spec: ModelSpec) -> ExpertCalibration:
    """Read the calibration of a bundle.

    Raises:
        BundleError: it is missing, too large or wrong.
    """
    return parse(read_regular(bundle, NAME, limit=MAX_BYTES), spec)


def _check(found: ExpertCalibration, spec: ModelSpec, where: str) -> None:
    indices = [layer.layer for layer in found.layers]
    if indices != spec.sparse_layers:
        raise ValueError(f"{where}: layers: expected {spec.sparse_layers}, got {indices}")
    optional: list[object] = [found.full_tier, found.score_quantiles, found.checks]
    for layer in found.layers:
        optional += [layer.counts, layer.output_errors, layer.norms, layer.sensitivity]
        _check_layer(layer, spec.num_experts, f"{where}: layers[{layer.layer}]")
    if any((value is None) == found.is_measured for value in optional):
        raise ValueError(f"{where}: tokens: expected everything measured on a text, or nothing, got some of it")
    scores = found.score_quantiles
    if scores is not None and (len(scores) != NUM_QUANTILES or scores != sorted(scores) or min(scores) < 0):
        raise ValueError(f"{where}: score_quantiles: expected {NUM_QUANTILES} ascending numbers")


def _check_layer(layer: LayerCalibration, num_experts: int, where: str) -> None:
    rows: dict[str, list[float] | list[int] | None] = {
        "counts": layer.counts, "norms": layer.norms, "powers": layer.powers,
    }  # fmt: skip
    rows |= {f"errors.{tier}": row for tier, row in layer.errors.items()}
    rows |= {f"output_errors.{tier}": row for tier, row in (layer.output_errors or {}).items()}
    for name, row in rows.items():
        if row is not None and (len(row) != num_experts or min(row) < 0 or max(row) > _MAX_COUNT):
            raise ValueError(f"{where}.{name}: expected {num_experts} numbers of 0 to 2^53")
    for tier in (*layer.errors, *(layer.output_errors or {})):
        if tier not in ("2", "4", "6", "8", "16"):
            raise ValueError(f"{where}: expected a tier, got {tier!r}")
    values = layer.sensitivity
    if values and not all(math.isfinite(v) and v >= 0 for v in (values.quantise, values.skip, values.substitute)):
        raise ValueError(f"{where}.sensitivity: expected numbers of 0 or more, got {values}")
