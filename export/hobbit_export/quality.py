"""What lower tiers, skips and other routes cost: a text is run through the finished bundle, undisturbed and disturbed.

One pass measures every expert's output at every tier on the inputs it really gets, and its length. Then one layer at a
time is disturbed in three ways, and the KL divergence of the model's output, divided by the squared error put in, is
that layer's sensitivity. Last, all layers are disturbed together: how far the sum of layers is from the truth is
recorded beside the figures.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from edge_runtime.base.arrays import F32, F64, I32
from edge_runtime.base.errors import ConfigError
from edge_runtime.bundle.calibration import NUM_QUANTILES
from edge_runtime.bundle.record import BF16
from edge_runtime.lab.evaluation import log_softmax
from hobbit_export.options import MEASURED_TOKENS
from hobbit_export.probe import NOTHING, Change, Disturbance, Probe, Sums, probing

if TYPE_CHECKING:
    from edge_runtime.engine.api import Engine

_SENSITIVITY_TOKENS = 512
_ALL_SENSITIVITY_TOKENS = 1 << 15
_NUMBERS_AT_ONCE = 1 << 19
"""Logits compared at a time: half a dozen arrays of as many float64 exist, which is little for any vocabulary."""
_FEW_USES = 4
"""An expert used less often than this is given its layer's mean error in proportion to its weights' error."""
_CHANGES: tuple[Change, ...] = ("quantise", "skip", "substitute")


def measure_quality(
    bundle: Path,
    text: str,
    weight_errors: dict[int, dict[str, list[float]]],
    memory_bytes: int,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Any]:
    """Run a text through a finished bundle.

    Args:
        bundle: complete, manifest included.
        text: what the model will see in use, or like it.
        weight_errors: layer -> tier -> relative error of each expert's weights.
        memory_bytes: ceiling for this process.
        progress: called with the share done, 0 to 1.

    Returns:
        Plain data: `tokens`, `full_tier`, `score_quantiles`, `checks`, and `layers`: layer (as text) -> `counts`,
        `output_errors`, `norms`, `powers`, `sensitivity`; see `edge_runtime.bundle.calibration`.

    Raises:
        ConfigError: the text is too short.
        BudgetError: the runtime does not fit into `memory_bytes`.
    """
    from edge_runtime.bundle.manifest_file import read as read_manifest
    from edge_runtime.engine.api import Engine

    full = max(tier for tier in read_manifest(bundle).experts.tiers if tier != BF16)
    options: dict[str, Any] = {"memory": memory_bytes, "policy": "lossless", "tier": full}
    with (
        Engine.open(bundle, self_check=False, **options) as engine,
        probing(engine) as probe,
        tempfile.TemporaryFile() as file,
    ):
        ids = np.asarray(engine.tokenizer.encode(text)[:MEASURED_TOKENS], np.int32)
        if len(ids) < 2:
            raise ConfigError(f"--calibrate: expected a text of at least 2 tokens, got {len(ids)}.")
        return _Measurement(engine, probe, ids, weight_errors, file, progress).run()


class _Measurement:
    def __init__(
        self,
        engine: Engine,
        probe: Probe,
        ids: I32,
        weight_errors: dict[int, dict[str, list[float]]],
        file: IO[bytes],
        progress: Callable[[float], None],
    ) -> None:
        self._engine, self._probe, self._ids, self._progress = engine, probe, ids, progress
        self._weight_errors, self._file = weight_errors, file
        manifest = engine.parts.bundle.manifest
        self._layers, self._experts = manifest.model.sparse_layers, manifest.model.num_experts
        self._full = engine.parts.config.tier
        self._tiers = tuple(tier for tier in manifest.layout.tiers if tier < self._full)
        share = _ALL_SENSITIVITY_TOKENS // (len(_CHANGES) * len(self._layers))
        self._few = min(len(ids), _SENSITIVITY_TOKENS, max(share, 16))
        work = len(ids) + self._few * (len(_CHANGES) * len(self._layers) + len(self._tiers) + 1)
        self._left = self._work = work

    def run(self) -> dict[str, Any]:
        self._probe.tiers = self._tiers
        for _ in self._logits(len(self._ids), NOTHING):
            pass
        self._probe.tiers = ()
        self._uses = self._first_uses()
        for rows in self._logits(self._few, NOTHING):
            self._file.write(np.ascontiguousarray(rows).data)
        layers = {str(layer): self._layer(layer) for layer in self._layers}
        return {
            "tokens": len(self._ids),
            "full_tier": self._full,
            "score_quantiles": self._score_quantiles(),
            "checks": [self._check(tier, layers) for tier in self._tiers],
            "layers": layers,
        }

    def _logits(self, tokens: int, disturbance: Disturbance) -> Iterator[F32]:
        """Yield the logits [t, V] of the first tokens under a disturbance, in windows of the context."""
        self._probe.disturbance = disturbance
        window = self._engine.parts.config.context
        for start in range(0, tokens, window):
            for _, rows in self._engine.logit_chunks(self._ids[start : min(start + window, tokens)]):
                yield rows
                self._left -= len(rows)
                self._progress(1 - self._left / self._work)

    def _kld(self, disturbance: Disturbance) -> float:
        """KL divergence a token of the undisturbed output from the disturbed one."""
        self._file.seek(0)
        total = 0.0
        for rows in self._logits(self._few, disturbance):
            few = max(1, _NUMBERS_AT_ONCE // rows.shape[1])
            for start in range(0, len(rows), few):
                some = rows[start : start + few]
                baseline = np.frombuffer(self._file.read(some.nbytes), np.float32).reshape(some.shape)
                p, q = log_softmax(baseline), log_softmax(some)
                total += float((np.exp(p) * (p - q)).sum())
        return max(total, 0.0) / self._few

    def _first_uses(self) -> dict[int, tuple[I32, F32]]:
        """Ids and weights [t, K] of the tokens sensitivities are measured on."""
        both = {layer: tuple(zip(*chunks, strict=True)) for layer, chunks in self._probe.routings.items()}
        return {i: (np.concatenate(ids)[: self._few], np.concatenate(w)[: self._few]) for i, (ids, w) in both.items()}

    def _layer(self, layer: int) -> dict[str, Any]:
        sums = self._probe.sums.get(layer) or Sums(self._experts, self._tiers)
        norms = _norms(sums)
        errors = {tier: _errors(sums, tier, np.array(self._weight_errors[layer][str(tier)])) for tier in self._tiers}
        ids, weights = self._uses[layer]
        power = weights.astype(np.float64) ** 2 * norms[ids] ** 2
        sensitivity = {}
        lowest = self._tiers[0] if self._tiers else 0
        for change in _CHANGES:
            put_in = (power * errors[lowest][ids] ** 2).sum() if lowest and change == "quantise" else power[:, -1].sum()
            known = change != "quantise" or lowest
            kld = self._kld(Disturbance(change, frozenset([layer]), lowest)) if known else 0.0
            sensitivity[change] = float(f"{kld * self._few / put_in:.6g}") if put_in > 0 else 0.0
        return {
            "counts": [int(n) for n in sums.uses],
            "output_errors": {str(t): _short(row) for t, row in errors.items()} | {str(self._full): [0.0] * len(norms)},
            "norms": _short(norms),
            "powers": _short(self._powers(layer, sums)),
            "sensitivity": sensitivity,
        }

    def _powers(self, layer: int, sums: Sums) -> F64:
        """Mean squared weight float64 [E] of each expert's uses; those seldom used get their layer's."""
        total = np.zeros(self._experts)
        for ids, weights in self._probe.routings.get(layer, []):
            np.add.at(total, ids.ravel(), weights.ravel().astype(np.float64) ** 2)
        everywhere = total.sum() / max(int(sums.uses.sum()), 1)
        return np.where(sums.uses >= _FEW_USES, total / np.maximum(sums.uses, 1), everywhere)

    def _check(self, tier: int, layers: dict[str, Any]) -> dict[str, Any]:
        predicted = 0.0
        for layer, (ids, weights) in self._uses.items():
            found = layers[str(layer)]
            error = np.array(found["norms"])[ids] * np.array(found["output_errors"][str(tier)])[ids]
            predicted += found["sensitivity"]["quantise"] * float(((weights * error) ** 2).sum()) / self._few
        measured = self._kld(Disturbance("quantise", frozenset(self._layers), tier))
        return {"tier": tier, "measured_kld": float(f"{measured:.6g}"), "predicted_kld": float(f"{predicted:.6g}")}

    def _score_quantiles(self) -> list[float]:
        scores = np.concatenate(self._probe.scores)
        return [round(float(q), 6) for q in np.quantile(scores, np.linspace(0, 1, NUM_QUANTILES))]


def _norms(sums: Sums) -> F64:
    """Root mean square length float64 [E] of each expert's output; those seldom used get their layer's."""
    everywhere = float(np.sqrt(sums.norm.sum() / max(int(sums.uses.sum()), 1)))
    return np.where(sums.uses >= _FEW_USES, np.sqrt(sums.norm / np.maximum(sums.uses, 1)), everywhere)


def _errors(sums: Sums, tier: int, weight_errors: F64) -> F64:
    """Relative output error float64 [E] of each expert at a tier."""
    ratio = np.sqrt(sums.error[tier] / np.maximum(sums.norm, 1e-30))
    known = sums.uses >= _FEW_USES
    scale = float(ratio[known].mean() / weight_errors[known].mean()) if known.any() else 1.0
    return np.where(known, ratio, weight_errors * scale)


def _short(values: F64) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
