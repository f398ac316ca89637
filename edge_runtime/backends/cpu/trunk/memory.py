"""What a trunk run by ONNX Runtime takes of the memory, from sizes alone. Formulas: docs/adr/0011-trunk-memory.md."""

from __future__ import annotations

from edge_runtime.backends.cpu.trunk.buffers import static_width
from edge_runtime.backends.cpu.trunk.oracles import mixer_of
from edge_runtime.backends.cpu.trunk.supported import dense_mlps, mixers, windows
from edge_runtime.base.spec import AttentionSpec, ModelSpec
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.part_names import trunk_file

# an ONNX Runtime session besides its weights: graph, kernels, allocators (measured 0.3 to 0.35 MiB)
_SESSION_BYTES = 384 << 10
# scales lie in the graph file and are held three times: as they are, repacked with the codes, and as sums of blocks
_GRAPH_COPIES = 3
# freed blocks below malloc's (dynamic) mapping threshold stay with the process; measured up to 42 MiB
_MALLOC_KEEPS_BYTES = 48 << 20
# values of the size of scores that exist at once: before and after softmax, or while a recurrence is solved
_SCORES, _SOLVING = 2, 6
# values of the size of a recurrent state that exist at once, besides those of the cache
_STATES = 3
# import onnxruntime and make a first session: measured 25 (1.23) to 39 MiB (1.32, its files just written)
LIBRARY_BYTES = 44 << 20


def plan_trunk_bytes(manifest: Manifest) -> int:
    """Return the memory the loaded trunk of a bundle takes: weights, their repacked copies and sessions.

    Not included: `LIBRARY_BYTES`, `scratch_bytes`, KV caches, and looking ahead, which is loaded on demand
    (`edge_runtime.backends.cpu.trunk.router_stack.routers_bytes`).
    """
    parts = [part for part in manifest.of_role("trunk") if part.name != trunk_file("routers")]
    data = sum(p.bytes for p in parts if p.name.endswith(".data"))
    graphs = [p.bytes for p in parts if p.name.endswith(".onnx")]
    return loaded_bytes(data, sum(graphs), len(graphs))


def loaded_bytes(data_bytes: int, graph_bytes: int, num_graphs: int) -> int:
    """Return what loaded graphs take, from the bytes of their ``.data`` and ``.onnx`` files and their number."""
    return data_bytes + _GRAPH_COPIES * graph_bytes + _SESSION_BYTES * num_graphs


def scratch_bytes(spec: ModelSpec, max_chunk: int, context: int) -> int:
    """Return the most memory one chunk takes while it runs: attention scores, projections, masks and static buffers.

    Measured peaks are 0.65 to 0.95 of it; at short contexts most of the difference is what malloc keeps.
    """
    t, attended = max_chunk, context + max_chunk
    parts = [_part_numbers(attention, spec.hidden, t, attended) for attention in mixers(spec)]
    widest = max([spec.hidden] + [2 * mlp.intermediate for mlp in dense_mlps(spec)])
    wide = max([t * widest, *(wide for _, wide in parts)])
    scores = max([scores for scores, _ in parts], default=0)
    masks, static = len(windows(spec)) * t * attended, t * static_width(spec)
    live = 4 * (scores + 6 * wide + masks + static + spec.vocab_size)
    return live + min(live, _MALLOC_KEEPS_BYTES)


def _part_numbers(attention: AttentionSpec, hidden: int, tokens: int, attended: int) -> tuple[int, int]:
    """Numbers of one attention that exist at once: scores or states, and six times those of its widest value."""
    mixer = mixer_of(attention)
    growth, most = mixer.growth(attention, hidden), mixer.MAX_TOKENS
    if most is not None:
        tokens, attended = min(tokens, most), min(tokens, most)
    pairs = _SCORES if most is None else _SOLVING
    return pairs * growth.pair * tokens * (attended + growth.beside) + _STATES * growth.fixed, tokens * growth.token
