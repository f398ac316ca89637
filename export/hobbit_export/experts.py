"""Expert files: stream each expert's rows from the checkpoint through the native encoder into one file per layer."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.arrays import F32, U8
from edge_runtime.base.checksum import crc32c
from edge_runtime.base.errors import BundleError
from edge_runtime.bundle.expert_file import (
    KIND_BF16,
    KIND_PROGRESSIVE,
    ExpertFileHeader,
    expected_segments,
    pack_header,
)
from edge_runtime.bundle.part_names import expert_file
from edge_runtime.bundle.record import BF16, record_layout
from hobbit_export.checkpoint import RAW_DTYPES, to_f32
from hobbit_export.encoder_check import encoder_isa
from hobbit_export.row_blocks import NUMBERS, Block, read_ahead
from hobbit_export.source import SourceModel
from hobbit_export.statistics.fitting import ExpertFit
from hobbit_export.statistics.inputs import LayerInputs


class Encoder(Protocol):
    """The native encoder, `edge_runtime.backends.cpu.kernels._native.ExpertEncoder`."""

    def reset(self, layer: int, expert: int) -> None:
        """Begin the record of an expert."""
        ...

    def add_rows(self, matrix: int, row_start: int, rows: NDArray[Any], dtype: str) -> None:
        """Add consecutive rows of gate (0), up (1) or down (2), in the checkpoint's own type."""
        ...

    def add_bias(self, matrix: int, values: F32) -> None:
        """Add the biases of a matrix, one a row."""
        ...

    def finish(self) -> None:
        """End the record; then its segments may be taken.

        Raises:
            ValueError: rows or biases are missing.
        """
        ...

    def draft(self) -> U8:
        """Return the bytes of the base segment as it is now; they change with the rows that are added."""
        ...

    def segment(self, i: int) -> U8:
        """Return the bytes of a segment; valid until `reset`."""
        ...

    def bf16(self) -> U8:
        """Return the bytes of the bfloat16 copy; valid until `reset`."""
        ...

    def errors(self) -> dict[int, float]:
        """Return the relative error of the weights at each tier."""
        ...


@dataclass(frozen=True)
class LayerJob:
    """What to write for one layer, how much memory a block of rows may take, and what two-bit tables are fitted to."""

    num_segments: int
    with_bf16: bool
    jobs: int
    block_bytes: int
    progress: Callable[[int], None] = field(default=lambda count: None)
    inputs: LayerInputs | None = None


def write_layer(source: SourceModel, layer_idx: int, out: Path, job: LayerJob) -> dict[int, list[float]]:
    """Write the expert file (and the bfloat16 one) of a layer into folder `out`, under their names in the bundle.

    Returns:
        Tier -> relative weight error of each expert.

    Raises:
        BundleError: a weight is not finite, or the checkpoint changed while it was read.
        DeviceError: the system gives fewer threads than jobs.
    """
    from edge_runtime.backends.cpu.kernels import make_encoder

    spec = source.spec
    encoder: Encoder = make_encoder(spec, job.num_segments, bf16=job.with_bf16, threads=job.jobs, isa=encoder_isa())
    errors: list[dict[int, float]] = []
    fit: ExpertFit | None = None
    with (
        closing(_Writers(source, layer_idx, out, job)) as writers,
        closing(read_ahead(source, layer_idx, job.block_bytes)) as blocks,
    ):
        for block in blocks:
            if block.expert_idx == len(errors):
                encoder.reset(layer_idx, block.expert_idx)
                errors.append({})
                if job.inputs is not None:
                    fit = ExpertFit(spec, record_layout(spec, job.num_segments), job.inputs, block.expert_idx)
            _encode(encoder, block)
            if fit is not None:
                fit.add(block.matrix, block.row_start, to_f32(block.rows), encoder.draft(), block.bias)
            job.progress(block.stored_bytes)
            if _is_last(block, spec.hidden):
                encoder.finish()
                errors[-1] = encoder.errors() | ({} if fit is None else {2: fit.error})
                writers.add(encoder, None if fit is None else fit.finish(encoder.segment(0)))
        writers.finish()
    return {tier: [e[tier] for e in errors] for tier in sorted(errors[0])}


def _encode(encoder: Encoder, block: Block) -> None:
    try:
        if block.bias is not None:
            encoder.add_bias(block.matrix, block.bias)
        encoder.add_rows(block.matrix, block.row_start, block.rows, RAW_DTYPES_OF[block.rows.dtype.char])
    except ValueError as err:
        raise BundleError(
            f"tensor {block.tensor!r}: expert {block.expert_idx}: {err}. Export a sound checkpoint."
        ) from err


RAW_DTYPES_OF = {np.dtype(raw).char: name for name, raw in RAW_DTYPES.values()}


def _is_last(block: Block, hidden: int) -> bool:
    return block.matrix == NUMBERS["down"] and block.row_start + len(block.rows) == hidden


class _Writers:
    """The one or two files of a layer: records appended one by one, the header last (it holds their checksums)."""

    def __init__(self, source: SourceModel, layer_idx: int, out: Path, job: LayerJob) -> None:
        spec = source.spec
        self._files: list[tuple[BinaryIO, ExpertFileHeader]] = []
        self._expert_idx = 0
        for kind in (KIND_PROGRESSIVE, KIND_BF16)[: 1 + job.with_bf16]:
            path = out / expert_file(layer_idx, BF16 if kind == KIND_BF16 else 2)
            path.parent.mkdir(parents=True, exist_ok=True)
            sizes = expected_segments(kind, record_layout(spec, job.num_segments))
            table = np.zeros((spec.num_experts, len(sizes)), np.uint32)
            header = ExpertFileHeader(
                kind, layer_idx, spec.num_experts, spec.hidden, spec.experts.intermediate, sizes, table,
                gated=spec.experts.gated, bias=spec.experts.bias,
                fp4=spec.experts.codes == "fp4" and kind == KIND_PROGRESSIVE,
            )  # fmt: skip
            file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed by close()
            file.seek(header.header_bytes)
            self._files.append((file, header))

    def add(self, encoder: Encoder, base: U8 | None = None) -> None:
        """Append the record the encoder has finished; `base` is its base segment, if that is another one."""
        for file, header in self._files:
            for i in range(len(header.segment_bytes)):
                if header.kind == KIND_BF16:
                    data = encoder.bf16().data
                else:
                    data = (encoder.segment(i) if i or base is None else base).data
                header.checksums[self._expert_idx, i] = crc32c(data)
                _write_all(file, data)
        self._expert_idx += 1

    def finish(self) -> None:
        """Write the headers."""
        for file, header in self._files:
            file.seek(0)
            _write_all(file, memoryview(pack_header(header)))

    def close(self) -> None:
        """Close the files."""
        for file, _ in self._files:
            file.close()


def _write_all(file: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[os.write(file.fileno(), data) :]
