"""How many tokens a pass may have: a launch has at most 65535 blocks in y, which kernels number tokens and pairs by."""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.backends.cuda.trunk.structures import MOST_STOPS, TOGETHER
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import LatentAttention, LinearAttention, ModelSpec, ShortConvolution

MOST_BLOCKS = 65535
"""In y, of every GPU (CUDA's programming guide, technical specifications by compute capability)."""


def require_tokens(spec: ModelSpec, tokens: int, *, trunk: bool) -> None:
    """Check that passes of so many tokens can be launched.

    Args:
        spec: the model.
        tokens: most of a pass.
        trunk: the trunk's kernels are launched too, beside those of the experts.

    Raises:
        ConfigError: they cannot; says how many can.
    """
    most = min([MOST_BLOCKS // spec.top_k, *(_most_of_layers(spec) if trunk else ())])
    if tokens > most:
        raise ConfigError(
            f"prefill_chunk: passes of {tokens} tokens (of all sequences together) have more blocks than a launch on "
            f"the GPU, expected at most {most}. Lower --prefill-chunk."
        )


def _most_of_layers(spec: ModelSpec) -> Iterator[int]:
    for attention in (layer.attention for layer in spec.layers):
        if isinstance(attention, LatentAttention):  # a matrix a head, `TOGETHER` tokens a block
            yield TOGETHER * (MOST_BLOCKS // attention.num_heads)
        if isinstance(attention, LinearAttention | ShortConvolution):  # beside the rows of new states
            yield MOST_BLOCKS - MOST_STOPS * (attention.kernel - 1)
