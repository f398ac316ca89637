"""Makes a trace of a recording that holds choices, not logits: logits are made up that give these choices back."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from edge_runtime.base.arrays import F32, I32
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import ExpertSpec, LayerSpec, MlpSpec, ModelSpec, RouterSpec, check_spec
from edge_runtime.lab.simulator.route_trace import RouteRecording
from edge_runtime.lab.simulator.trace_format import TraceHeader, TracePass
from edge_runtime.lab.simulator.trace_writer import TraceWriter
from edge_runtime.policy import Reads

_TIERS, _TIER = [2, 4, 6, 8], 4
_HIDDEN, _INTERMEDIATE, _MULTIPLE = 2048, 768, 32
_BITS_OF_A_WEIGHT = 4.5
"""Of the 4-bit types most recordings were taken with, scales included."""
_LEAST_WEIGHT, _FAR_BELOW = 1e-6, 40.0


def write_trace(
    recording: RouteRecording, out: Path, *, hidden: int | None = None, intermediate: int | None = None
) -> int:
    """Write a recording as a trace; return the bytes of one of its experts at 4 bits.

    Args:
        recording: of another program.
        out: the file to write.
        hidden: D of the model; None: it is not known, and 2,048 is assumed.
        intermediate: I of an expert; None: what the recorded bytes of an expert amount to, else 768.

    Raises:
        ConfigError: the sizes are none a model can have.
    """
    header = _header(recording, hidden or _HIDDEN, intermediate)
    with TraceWriter(out, header) as writer:
        for one in _passes(recording):
            writer.add(one)
    return header.layout.tier_bytes(_TIER)


def routing_of(recording: RouteRecording) -> Reads:
    """What a recording holds of the router's output."""
    return "weights" if recording.has_weights else "choice"


def _header(recording: RouteRecording, hidden: int, intermediate: int | None) -> TraceHeader:
    if intermediate is None:
        weights = recording.expert_bytes * 8 / _BITS_OF_A_WEIGHT / 3 / hidden
        intermediate = max(_MULTIPLE, round(weights / _MULTIPLE) * _MULTIPLE) if weights else _INTERMEDIATE
    sparse = set(recording.layers)
    dense = LayerSpec(None, sparse=False, dense=MlpSpec(intermediate))
    model = ModelSpec(
        family=f"recorded: {recording.model}",
        vocab_size=1,
        hidden=hidden,
        rms_eps=1e-6,
        max_context=1,
        layers=[LayerSpec(None) if layer in sparse else dense for layer in range(recording.num_layers)],
        router=RouterSpec(recording.num_experts, recording.experts.shape[2], normalise=True),
        experts=ExpertSpec(intermediate),
    )
    try:
        check_spec(model, "model")
    except ValueError as err:
        raise ConfigError(f"{recording.model}: {err}.") from err
    return TraceHeader(
        model=model,
        num_segments=len(_TIERS),
        tiers=_TIERS,
        tier=_TIER,
        logits="float32",
        bundle_id="",
        policy="lossless",
        created_by=f"hobbit {version('hobbit-edge')}",
        routing=routing_of(recording),
    )


def _passes(recording: RouteRecording) -> Iterator[TracePass]:
    """Yield a pass for each token."""
    nothing = np.full(1, np.nan, np.float32)
    for experts, weights, first in zip(
        recording.experts, recording.weights, recording.first_of_text.tolist(), strict=True
    ):
        yield TracePass(
            np.zeros(1, np.int32), logits_of(experts, weights, recording.num_experts)[:, None], nothing, first
        )


def logits_of(experts: I32, weights: F32, num_experts: int) -> F32:
    """Return logits float32 [layers, E] whose softmax gives int32 [layers, K] chosen experts their weights.

    The experts that were not chosen get a chance of nearly nothing: what the router thought of them is not known.
    """
    chosen = np.log(np.maximum(weights, _LEAST_WEIGHT)).astype(np.float32)
    logits = np.full((len(experts), num_experts), chosen.min() - _FAR_BELOW, np.float32)
    np.put_along_axis(logits, experts.astype(np.intp), chosen, axis=1)
    return logits
