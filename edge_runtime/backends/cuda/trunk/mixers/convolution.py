"""A gated causal convolution over a few tokens (LFM2). Implements `Mixer`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_runtime.backends.cuda.trunk.graph_weights import GraphWeights
from edge_runtime.backends.cuda.trunk.launches import DeviceMatrix
from edge_runtime.backends.cuda.trunk.mixers.base import OUT, Place
from edge_runtime.backends.cuda.trunk.mixers.taps import convolve
from edge_runtime.backends.cuda.trunk.structures import Taps
from edge_runtime.base.spec import ShortConvolution


@dataclass(frozen=True)
class ConvolutionWeights:
    """The projection to three parts, the taps, and the output projection; `bias` is an address, or 0."""

    joint: DeviceMatrix
    taps: tuple[int, int]
    bias: int
    o: DeviceMatrix


def problems(attention: ShortConvolution) -> Iterator[str]:
    """See `Mixer.problems`: kernels take all of it but no tap before the token's own."""
    if attention.kernel == 1:
        yield "a convolution of one tap"


def inputs(attention: ShortConvolution) -> list[int]:
    """See `Mixer.inputs`."""
    return []


def widths(attention: ShortConvolution, hidden: int) -> dict[str, int]:
    """See `Mixer.widths`."""
    return {"joint": 3 * hidden, OUT: hidden}


def load(g: GraphWeights, prefix: str, attention: ShortConvolution, hidden: int) -> ConvolutionWeights:
    """See `Mixer.load`."""
    p, has_bias = prefix, attention.bias
    return ConvolutionWeights(
        joint=g.matrix(f"{p}conv_in", 3 * hidden, hidden, bias=f"{p}conv_in_bias" if has_bias else ""),
        taps=g.rows([f"{p}tap_{j}" for j in range(attention.kernel)], hidden),
        bias=g.vector(f"{p}conv_bias", hidden) if has_bias else 0,
        o=g.matrix(f"{p}conv_out", hidden, hidden, bias=f"{p}conv_out_bias" if has_bias else ""),
    )


def run(attention: ShortConvolution, weights: ConvolutionWeights, place: Place) -> None:
    """See `Mixer.run`."""
    hidden = weights.o.inputs
    place.linear("normed", weights.joint, "joint")
    how = Taps(channels=hidden, kernel=attention.kernel, row=3 * hidden, gated=1)
    convolve(place, "joint", weights.taps, weights.bias, OUT, how)
