"""What the native trunk takes of the memory, from sizes alone."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

from edge_runtime.backends.cpu.kernels import Frame
from edge_runtime.backends.cpu.trunk.native.mixers import MixerParts, mixer_parts
from edge_runtime.backends.cpu.trunk.supported import dense_mlps
from edge_runtime.base.sizes import align_up
from edge_runtime.base.spec import ModelSpec, SoftmaxAttention
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.part_names import trunk_file

_PANEL_ROWS, _TILE, _QUERY_ROWS = 16, 32, 32
_PAGE = mmap.PAGESIZE
_READ_BYTES = 512 << 10
"""A block of a file, while it is packed."""


def plan_trunk_bytes(manifest: Manifest) -> int:
    """Return what the packed weights of a bundle take: as much as is stored, matrices filled up to whole panels."""
    parts = [part for part in manifest.of_role("trunk") if part.name != trunk_file("routers")]
    stored = sum(part.bytes for part in parts if part.name.endswith((".data", ".onnx")))
    return stored + sum(_fill(*size) for size in _matrices(manifest.model)) + _READ_BYTES


def scratch_bytes(spec: ModelSpec, tokens: int, threads: int) -> int:
    """Return what passes over `tokens` tokens of one sequence write: `DenseTrunk.scratch_bytes` and a frame."""
    inputs = [inputs for _, inputs in _matrices(spec)]
    projected, attended, room = 0, 0, 0
    for attention in _attentions(spec):
        q, k = attention.num_heads * attention.head_dim, attention.num_kv_heads * attention.head_dim
        projected = max(projected, q * (2 if attention.output_gate else 1) + 2 * k)
        attended, room = max(attended, q), max(room, _room(attention.head_dim))
    mixers = list(_mixers(spec))
    projected, attended = (max([start, *each]) for start, each in (
        (projected, (m.projected for m in mixers)), (attended, (m.attended for m in mixers)),
    ))  # fmt: skip
    room = max([room, *(_room(m.kept) for m in mixers)])
    wide = max(
        [*(mlp.intermediate * (2 if mlp.gated else 1) for mlp in dense_mlps(spec)), *(m.wide for m in mixers), 0]
    )
    inner = max([*(mlp.intermediate for mlp in dense_mlps(spec)), *(m.inner for m in mixers), 0])
    quantised = [(1, max(inputs)), *((m.num_heads, k) for m in mixers for _, _, k in m.heads.values())]
    codes = max(heads * align_up(k, 256) for heads, k in quantised)
    scales = 2 * max(heads * (k // 16 + 1) for heads, k in quantised)
    numbers = tokens * (2 * spec.hidden + projected + attended + wide + inner + scales)
    return 4 * numbers + tokens * codes + 4 * threads * room + 16 * _PAGE + frame_bytes(spec, tokens)


def frame_bytes(spec: ModelSpec, tokens: int) -> int:
    """Return what a frame for chunks of up to `tokens` tokens takes."""
    return Frame.bytes_for(tokens, spec.hidden, spec.num_experts, spec.router.norm_scale is not None, angles(spec))


def angles(spec: ModelSpec) -> list[int]:
    """Return half the rotated numbers of each distinct rope."""
    return [rope.dim // 2 for rope in spec.ropes]


def _room(dim: int) -> int:
    """Numbers a thread needs while it attends to keys of `dim` numbers."""
    return align_up(dim, 16) * (2 * _QUERY_ROWS + _TILE + 1) + _QUERY_ROWS * _TILE


def _attentions(spec: ModelSpec) -> Iterator[SoftmaxAttention]:
    return (layer.attention for layer in spec.layers if isinstance(layer.attention, SoftmaxAttention))


def _mixers(spec: ModelSpec) -> Iterator[MixerParts]:
    found = (mixer_parts(layer.attention, spec.hidden) for layer in spec.layers)
    return (parts for parts in found if parts is not None)


def _matrices(spec: ModelSpec) -> Iterator[tuple[int, int]]:
    """Outputs and inputs of every matrix."""
    d = spec.hidden
    yield spec.vocab_size, d
    for layer in spec.layers:
        if layer.sparse:
            yield spec.num_experts, d
        if isinstance(attention := layer.attention, SoftmaxAttention):
            q, k = attention.num_heads * attention.head_dim, attention.num_kv_heads * attention.head_dim
            yield q * (2 if attention.output_gate else 1) + k * (1 if attention.shared_kv else 2), d
            yield d, q
    for parts in _mixers(spec):
        yield from ((outputs, inputs) for _, outputs, inputs in parts.matrices.values())
        yield from ((n, k) for _, n, k in parts.heads.values() for _ in range(parts.num_heads))
    for mlp in dense_mlps(spec):
        yield mlp.intermediate * (2 if mlp.gated else 1), d
        yield d, mlp.intermediate


def _fill(outputs: int, inputs: int) -> int:
    """Bytes that a matrix takes beyond what is stored, at most: its last panel's missing rows, and a page's rest."""
    return 4 * (align_up(outputs, _PANEL_ROWS) - outputs) * inputs + _PAGE
