"""Device memory of a chunk in progress, cut for so many tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from edge_runtime.backends.cuda.driver import DeviceMemory, Stream
from edge_runtime.base.sizes import align_up
from edge_runtime.base.spec import MlpSpec, ModelSpec, SoftmaxAttention

_ALIGN = 256
POSITION = "past"
"""One int32: tokens in the cache before the chunk."""


def widths_of(spec: ModelSpec) -> dict[str, int]:
    """Return the numbers a token has in each buffer, by name; `cos0`, `sin0`, ... are those of each distinct rope."""
    attentions = [layer.attention for layer in spec.layers if isinstance(layer.attention, SoftmaxAttention)]
    mlps = list(_networks(spec))
    angles = {f"{name}{i}": rope.dim // 2 for i, rope in enumerate(spec.ropes) for name in ("cos", "sin")}
    return {
        "resid": spec.hidden,
        "normed": spec.hidden,
        "x": spec.hidden,
        "router_logits": spec.num_experts,
        "qkv": max((s.num_heads + 2 * s.num_kv_heads) * s.head_dim for s in attentions),
        "attended": max(s.num_heads * s.head_dim for s in attentions),
        "wide": max([(2 if mlp.gated else 1) * mlp.intermediate for mlp in mlps], default=1),
        "hidden": max([mlp.intermediate for mlp in mlps], default=1),
        "y": spec.hidden,
        "gates": 1,
        **angles,
    }


def buffer_bytes(widths: Mapping[str, int], tokens: int) -> int:
    """Return what the buffers of a chunk of so many tokens take."""
    return _ALIGN + sum(align_up(4 * width * tokens, _ALIGN) for width in widths.values())


class TokenBuffers:
    """Buffers for chunks of up to `tokens` tokens; the memory goes with the last reference.

    Args:
        stream: orders what is written.
        widths: float32 numbers a token has in each buffer, by name.
        tokens: most of a chunk.

    Raises:
        CudaMemoryError: the GPU has no room.
    """

    def __init__(self, stream: Stream, widths: Mapping[str, int], tokens: int) -> None:
        self._stream, self.tokens = stream, tokens
        self._memory = DeviceMemory(stream.device, buffer_bytes(widths, tokens))
        self._offsets, at = {POSITION: 0}, _ALIGN
        for name, width in widths.items():
            self._offsets[name] = at
            at += align_up(4 * width * tokens, _ALIGN)

    def at(self, name: str) -> int:
        """Return the address of a buffer."""
        return self._memory.address + self._offsets[name]

    def write(self, name: str, array: np.ndarray) -> None:
        """Copy numbers of the host, which have been read when this returns."""
        self._memory.write(np.ascontiguousarray(array), self._stream, self._offsets[name])

    def close(self) -> None:
        """Give the memory back. Safe to call twice."""
        self._memory.close()

    def __del__(self) -> None:
        if hasattr(self, "_memory"):
            self._memory.close()


def _networks(spec: ModelSpec) -> Iterator[MlpSpec]:
    for layer in spec.layers:
        if layer.dense is not None:
            yield layer.dense
        if layer.shared is not None:
            yield layer.shared.mlp
