"""What a trunk run by ONNX Runtime takes of the memory, from sizes alone. Formulas: docs/adr/0011-trunk-memory.md."""

from __future__ import annotations

from edge_runtime.backends.cpu.trunk.supported import dense_mlps, windows
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.part_names import trunk_file

# an ONNX Runtime session besides its weights: graph, kernels, allocators (measured 0.3 to 0.35 MiB)
_SESSION_BYTES = 384 << 10
# scales lie in the graph file and are held three times: as they are, repacked with the codes, and as sums of blocks
_GRAPH_COPIES = 3
# freed blocks below malloc's (dynamic) mapping threshold stay with the process; measured up to 42 MiB
_MALLOC_KEEPS_BYTES = 48 << 20
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
    t, attention = max_chunk, spec.attention
    heads, kv_heads, head_dim = attention.num_heads, attention.num_kv_heads, attention.head_dim
    scores = 2 * heads * t * (context + t + attention.sinks)
    widest = max([spec.hidden, (heads + 2 * kv_heads) * head_dim] + [2 * mlp.intermediate for mlp in dense_mlps(spec)])
    masks = len(windows(spec)) * t * (context + t)
    rotated = 0 if attention.rope is None else attention.rope.dim
    static = t * (5 * spec.hidden + spec.num_experts + 2 * kv_heads * head_dim + rotated)
    live = 4 * (scores + 6 * t * widest + masks + static + spec.vocab_size)
    return live + min(live, _MALLOC_KEEPS_BYTES)
