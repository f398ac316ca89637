"""The exporter's own memory: what it needs at least, and how a ceiling is shared out."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from edge_runtime.base.errors import BudgetError
from edge_runtime.base.sizes import MIB, format_size
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.record import PANEL, record_layout
from hobbit_export.options import ExportOptions
from hobbit_export.reference import num_reference_tokens
from hobbit_export.router import router_memory_bytes
from hobbit_export.row_blocks import QUEUED_BLOCKS
from hobbit_export.source import SourceModel
from hobbit_export.statistics.fitting import fitting_bytes
from hobbit_export.statistics.moments import moment_bytes
from hobbit_export.statistics.source_pass import pass_bytes
from hobbit_export.trunk.quantize import block_size_for

_SLACK_BYTES = 24 * MIB
"""Threads' stacks, allocator waste and JSON; measured 6 to 15 MiB."""
_MAX_BLOCK_BYTES = 8 * MIB
_MAX_TRUNK_BYTES = 256 * MIB
_MIN_TRUNK_BYTES = 24 * MIB
_HEAD_ROWS = 8192
_COPIES_OF_VECTORS = 4


@dataclass(frozen=True)
class ExportMemory:
    """How the ceiling is used; steps run one after the other, so the largest decides.

    Attributes:
        base_bytes: interpreter, libraries and headers, measured.
        encoder_bytes: one whole record (and its bfloat16 twin) plus encoder scratch.
        block_bytes: one block of checkpoint rows; QUEUED_BLOCKS of them exist at once.
        trunk_bytes: what building a trunk part may hold.
        reference_bytes: what blocks of expert rows may take in the reference forward pass.
    """

    ceiling_bytes: int
    base_bytes: int
    encoder_bytes: int
    block_bytes: int
    trunk_bytes: int
    reference_bytes: int


def share_memory(source: SourceModel, options: ExportOptions, base_bytes: int) -> ExportMemory:
    """Share the ceiling out, or refuse it.

    Raises:
        BudgetError: the ceiling is below the floor; the sum is in the message.
    """
    spec = source.spec
    layout = record_layout(spec, options.num_segments)
    widest = max(spec.hidden, spec.experts.intermediate)
    scratch = options.jobs * widest * PANEL * 8
    encoder = layout.record_bytes + (layout.bf16_bytes if options.with_bf16 else 0) + scratch
    if options.has_statistics:
        encoder += layout.segment_bytes[0] + fitting_bytes(spec)
    min_block = max(widest * 4, source.expert_row_bytes) * PANEL
    trunk = max(_MIN_TRUNK_BYTES, 2 * widest * 48) + _head_bytes(spec)
    if options.feeds_back:
        trunk += 4 * moment_bytes(spec)  # as read, and of one matrix in float64: damped, inverted, decomposed
    experts = encoder + QUEUED_BLOCKS * min_block
    reference = _reference_bytes(source)
    if options.calibrate is not None:
        passing = pass_bytes(spec, _largest(source)) + router_memory_bytes(spec)
        reference = max(reference, passing + options.feeds_back * moment_bytes(spec))
    base = base_bytes + _SLACK_BYTES
    floor = base + max(experts, trunk, reference)
    if options.memory_bytes < floor:
        raise BudgetError(
            f"--memory {format_size(options.memory_bytes)}: is below the floor of {format_size(floor)} "
            f"(process {format_size(base)}, and the largest of: an expert's record with its rows "
            f"{format_size(experts)}, a trunk part {format_size(trunk)}, the reference pass {format_size(reference)}). "
            f"Raise --memory to at least {-(-floor // MIB) + 1}MiB."  # the process differs from run to run
        )
    spare = options.memory_bytes - base
    return ExportMemory(
        ceiling_bytes=options.memory_bytes,
        base_bytes=base,
        encoder_bytes=encoder,
        block_bytes=max(min_block, min(_MAX_BLOCK_BYTES, (spare - encoder) // QUEUED_BLOCKS)),
        trunk_bytes=min(_MAX_TRUNK_BYTES, spare - (trunk - _MIN_TRUNK_BYTES)),
        reference_bytes=4 * _MAX_BLOCK_BYTES,
    )


def _head_bytes(spec: ModelSpec) -> int:
    """What of a head is held whole: its scales and its bias, in the graph's protobuf, which is copied to be written."""
    blocks = -(-spec.hidden // block_size_for(spec.hidden))
    return _COPIES_OF_VECTORS * 4 * spec.vocab_size * (blocks + spec.head_bias)


def _reference_bytes(source: SourceModel) -> int:
    """A trunk matrix in float32 (of the head some rows), the logits and copies, blocks of expert rows, router data.

    Logits are copied once, and where they are capped twice. Where a rotation depends on the context, those of a short
    and of a long one are written together.
    """
    spec, largest = source.spec, _largest(source)
    copies = 2 + (spec.logit_softcap is not None) + (spec.longest_alike is not None)
    logits = 4 * copies * num_reference_tokens(source) * spec.vocab_size
    return 4 * largest + logits + 4 * _MAX_BLOCK_BYTES + router_memory_bytes(spec)


def _largest(source: SourceModel) -> int:
    """Weights of the trunk's largest matrix; of the head some rows."""
    tensors = (source.weights[t] for name, t in source.trunk.items() if name not in ("embed", "head"))
    head = min(_HEAD_ROWS, source.spec.vocab_size) * source.spec.hidden
    return max([head, *(t.rows * t.cols for t in tensors)])


def limit_heap() -> None:
    """Make glibc give large blocks back to the system when they are freed, instead of keeping them for reuse.

    By default its threshold grows to 32 MiB, so freed row blocks would count against the ceiling for ever. Smaller
    arrays are made and freed by the thousand: up to 4 MiB of theirs are kept, or each would be faulted in anew.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    m_trim_threshold, m_mmap_threshold, m_arena_max = -1, -3, -8
    mallopt(m_mmap_threshold, 1 << 20)
    mallopt(m_trim_threshold, 4 << 20)
    mallopt(m_arena_max, 2)
