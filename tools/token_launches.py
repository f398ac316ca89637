"""How many kernels a token launches on a GPU while decoding, all experts in memory: counted from the model alone.

What `edge_runtime/backends/cuda` queues, step by step; tests count the launches of small models of every family against
it. Where experts are missing the host routes, and what came late has launches of its own: about as many.
"""

from __future__ import annotations

from edge_runtime.backends.cuda.resident_router import routes_on_device
from edge_runtime.backends.cuda.trunk.widths import is_joined
from edge_runtime.base.spec import LatentAttention, LinearAttention, ModelSpec, ShortConvolution, SoftmaxAttention

_PRODUCTS = {"gated_delta": 2, "mamba2": 2, "kimi_delta": 6}
"""Of a recurrence, by its rule."""
_NETWORK = 2
"""Of a dense network before its last product: one product, the activation."""
_EXPERTS = 4
"""Of a sparse layer: activations as int8, gate and up, down, weighted sum. The choice is one more on the device."""


def token_launches(spec: ModelSpec) -> int:
    """Return the launches of one token, layers and head; the embedding is the host's."""
    head = _joins_before(spec, spec.num_layers) + 2  # norm, product
    return sum(_layer(spec, i) for i in range(spec.num_layers)) + head


def _layer(spec: ModelSpec, i: int) -> int:
    layer, joined = spec.layers[i], is_joined(spec, spec.layers[i])
    count = _joins_before(spec, i)
    if layer.attention is not None:
        count += 1 + _mixer(layer.attention) + 1 + joined  # norm, mixer, its output, how that joins
    if layer.has_feed_forward:
        count += 1  # norm
    if layer.sparse:
        count += (spec.router.norm_scale is not None) + 1  # norm of its own, product
        count += routes_on_device(spec.router) + _EXPERTS
    elif layer.dense is not None:
        count += _NETWORK + 1 + joined
    if layer.shared is not None:
        beside = 2 if layer.shared.parallel else 1  # norms before and behind, or its sum with the experts
        count += _NETWORK + 1 + beside + 2 * bool(layer.shared.gate)
    return count


def _joins_before(spec: ModelSpec, i: int) -> int:
    """Whether what the experts of the layer before gave is more than added, which a norm does by the way."""
    before = i - 1
    if before < 0 or not spec.layers[before].sparse:
        return 0
    return int(is_joined(spec, spec.layers[before]) or spec.is_parallel(before))


def _mixer(attention: object) -> int:
    """Launches of what mixes tokens, without its last product."""
    if isinstance(attention, SoftmaxAttention):
        return 3 + 2 * (attention.qk_norm == "full")  # product, places and rotations, attention
    if isinstance(attention, LatentAttention):
        return 7 + 2 * (attention.query_rank is not None)
    if isinstance(attention, LinearAttention):
        return _PRODUCTS[attention.rule] + 3  # convolution, recurrence, gates
    assert isinstance(attention, ShortConvolution), attention
    return 2
