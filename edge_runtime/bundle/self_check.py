"""The numerical self-check: does this engine, on this machine, say what the source model said at export?"""

from __future__ import annotations

import io
import logging
import os
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from edge_runtime.base.arrays import F32, I32
from edge_runtime.base.errors import BundleError
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.state import is_remembered, remember, state_folder

_LOG = logging.getLogger(__name__)
REFERENCE = "calibration/reference.npz"
_MAX_REFERENCE_TOKENS, _ZIP_BYTES = 64, 1 << 16
"""Exporters write 16 tokens at most."""

# Lowest mean correlation with the source model's logits, by expert tier. The worst of random checkpoints of every
# family (one position of those can be far off: one flipped expert is a different model) are in docs/quality.md.
_MIN_CORRELATION = {16: 0.9995, 8: 0.995, 6: 0.99, 4: 0.95, 2: 0.70}
_TRUNK_ALLOWANCE = {"fp32": 0.0, "int8": 0.01, "int4": 0.15}


class Checkable(Protocol):
    """What the self-check needs of an engine."""

    def lossless_logits(self, token_ids: I32) -> F32:
        """Return logits float32 [T, V] of int32 [T] tokens, with every expert the router chooses at the full tier."""
        ...


@dataclass(frozen=True)
class SelfCheck:
    """Outcome of the self-check.

    Attributes:
        tokens: positions compared.
        correlation: mean correlation over positions between the logits here and the source model's.
        limit: lowest correlation accepted at this tier and trunk precision.
        max_relative_error: max |difference| / max |logit|.
    """

    tokens: int
    correlation: float
    limit: float
    max_relative_error: float

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def load_reference(bundle: Bundle, context: int = 0) -> tuple[I32, F32]:
    """Return token ids int32 [N] and the source model's logits float32 [N, V].

    Args:
        bundle: the bundle.
        context: tokens a sequence may grow to, where the model's rotation depends on it.

    Raises:
        BundleError: the part is missing or damaged.
    """
    vocab = bundle.manifest.model.vocab_size
    name = "long_logits" if _is_long(bundle, context) else "logits"
    kinds = 1 if bundle.manifest.model.longest_alike is None else 2
    limit = _MAX_REFERENCE_TOKENS * 4 * (vocab + 1) * kinds + _ZIP_BYTES
    raw = bundle.read_part(bundle.manifest.part(REFERENCE), limit=limit)
    import zipfile  # only where a check runs

    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:  # a small file may unpack to anything
            if sum(member.file_size for member in archive.infolist()) > limit:
                raise ValueError(f"expected at most {limit} bytes unpacked")
        with np.load(io.BytesIO(raw), allow_pickle=False) as data:
            ids, logits = data["token_ids"], data[name]
    except Exception as err:  # a damaged zip raises many unrelated types
        raise BundleError(f"{REFERENCE}: cannot be read: {str(err)[:200]}. Export the bundle again.") from err
    if ids.dtype != np.int32 or ids.ndim != 1 or logits.dtype != np.float32 or logits.shape != (len(ids), vocab):
        raise BundleError(f"{REFERENCE}: expected int32 [N] and float32 [N, {vocab}], got {ids.shape}, {logits.shape}.")
    if not 1 <= len(ids) <= _MAX_REFERENCE_TOKENS or ids.min() < 0 or ids.max() >= vocab:
        raise BundleError(f"{REFERENCE}: expected 1 to {_MAX_REFERENCE_TOKENS} tokens below {vocab}, got others.")
    return ids, logits


def _is_long(bundle: Bundle, context: int) -> bool:
    """Whether the model rotates differently for sequences that may grow so long."""
    alike = bundle.manifest.model.longest_alike
    return alike is not None and context > alike


def self_check(engine: Checkable, bundle: Bundle, tier: int, *, context: int = _MAX_REFERENCE_TOKENS) -> SelfCheck:
    """Compare an engine with the source model on the bundle's reference tokens.

    Args:
        engine: runs the tokens.
        bundle: the bundle it was opened from.
        tier: the expert tier it runs at.
        context: most tokens it can run; where the rotation of a model depends on it, that of the engine is compared.

    Raises:
        BundleError: the logits do not agree: the bundle or this machine's kernels are wrong.
    """
    ids, expected = load_reference(bundle, context)
    ids, expected = ids[:context], expected[:context]
    actual = engine.lossless_logits(ids)  # the policy in force may leave out what it likes
    precision = bundle.manifest.trunk.precision
    limit = _MIN_CORRELATION[tier] - _TRUNK_ALLOWANCE[precision]
    correlation = float(np.mean([_correlation(a, e) for a, e in zip(actual, expected, strict=True)]))
    error = float(np.abs(actual - expected).max() / max(float(np.abs(expected).max()), 1e-30))
    if not correlation >= limit:
        raise BundleError(
            f"self-check: correlation with the source model's logits: expected at least {limit:.3f} at tier "
            f"{tier} and trunk {precision}, got {correlation:.3f}. "
            "The bundle or this machine's kernels are wrong: run `hobbit verify`, then export again."
        )
    return SelfCheck(len(ids), correlation, limit, error)


def check_once(
    engine: Checkable, bundle: Bundle, tier: int, fingerprint: str, *, context: int = _MAX_REFERENCE_TOKENS
) -> None:
    """Run the self-check unless this bundle passed it before on this machine.

    Args:
        engine: runs the tokens.
        bundle: the bundle it was opened from.
        tier: the expert tier it runs at.
        fingerprint: names whatever computes: instruction set, library versions, what was built here.
        context: most tokens it can run; where the rotation of a model depends on it, that of the engine is compared.
    """
    if not any(p.name == REFERENCE for p in bundle.manifest.parts):
        return
    long = "-long" if _is_long(bundle, context) else ""
    key = f"{bundle.manifest.bundle_id[:32]}-{tier}-{fingerprint}-{os.uname().machine}{long}"
    marker = state_folder() / "selfcheck" / key
    if is_remembered(marker):
        return
    result = self_check(engine, bundle, tier, context=context)
    _LOG.info("self-check passed: correlation %.5f over %d tokens", result.correlation, result.tokens)
    try:
        remember(marker, repr(result))
    except OSError as err:
        _LOG.info("self-check: result cannot be remembered in %s: %s", marker.parent, err.strerror)


def _correlation(a: F32, b: F32) -> float:
    x, y = a.astype(np.float64) - a.mean(), b.astype(np.float64) - b.mean()
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norm if norm > 0 else float(np.allclose(a, b))
