"""Expert files: stream each expert's rows from the checkpoint through the native encoder into one file per layer.

A reader thread fetches the next rows while the encoder works on the present ones, so drive and CPU overlap.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.checksum import crc32c
from edge_runtime.base.errors import BundleError
from edge_runtime.base.spec import Matrix
from edge_runtime.bundle.expert_file import (
    KIND_BF16,
    KIND_PROGRESSIVE,
    ExpertFileHeader,
    expected_segments,
    pack_header,
)
from edge_runtime.bundle.part_names import expert_file
from edge_runtime.bundle.record import BF16, PANEL, record_layout
from hobbit_export.checkpoint import RAW_DTYPES
from hobbit_export.encoder_check import encoder_isa
from hobbit_export.source import SourceModel

QUEUED_BLOCKS = 4
"""Row blocks alive at once: one being encoded, one being read, two waiting."""


class Encoder(Protocol):
    """The native encoder, `edge_runtime.backends.cpu.kernels._native.ExpertEncoder`."""

    def reset(self, layer: int, expert: int) -> None:
        """Begin the record of an expert."""
        ...

    def add_rows(self, matrix: int, row_start: int, rows: NDArray[Any], dtype: str) -> None:
        """Add consecutive rows of gate (0), up (1) or down (2), in the checkpoint's own type."""
        ...

    def add_bias(self, matrix: int, values: NDArray[np.float32]) -> None:
        """Add the biases of a matrix, one a row."""
        ...

    def finish(self) -> None:
        """End the record; then its segments may be taken.

        Raises:
            ValueError: rows or biases are missing.
        """
        ...

    def segment(self, i: int) -> NDArray[np.uint8]:
        """Return the bytes of a segment; valid until `reset`."""
        ...

    def bf16(self) -> NDArray[np.uint8]:
        """Return the bytes of the bfloat16 copy; valid until `reset`."""
        ...

    def errors(self) -> dict[int, float]:
        """Return the relative error of the weights at each tier."""
        ...


@dataclass(frozen=True)
class LayerJob:
    """What to write for one layer, and how much memory a block of rows may take."""

    num_segments: int
    with_bf16: bool
    jobs: int
    block_bytes: int
    progress: Callable[[int], None] = field(default=lambda count: None)


class Block(NamedTuple):
    """Consecutive rows of one expert matrix, their bytes in the checkpoint, and before the first ones its biases."""

    expert_idx: int
    matrix: int
    row_start: int
    tensor: str
    rows: NDArray[Any]
    stored_bytes: int
    bias: NDArray[np.float32] | None = None


def write_layer(source: SourceModel, layer_idx: int, out: Path, job: LayerJob) -> dict[int, list[float]]:
    """Write the expert file (and the bfloat16 one) of a layer into folder `out`, under their names in the bundle.

    Returns:
        Tier -> relative weight error of each expert.

    Raises:
        BundleError: a weight is not finite, or the checkpoint changed while it was read.
    """
    from edge_runtime.backends.cpu.kernels._native import ExpertEncoder

    spec = source.spec
    encoder: Encoder = ExpertEncoder(
        layer_idx, 0, spec.hidden, spec.experts.intermediate, job.num_segments, bf16=job.with_bf16, threads=job.jobs,
        isa=encoder_isa(), gated=spec.experts.gated, bias=spec.experts.bias, codes=spec.experts.codes,
    )  # fmt: skip
    errors: list[dict[int, float]] = []
    with (
        closing(_Writers(source, layer_idx, out, job)) as writers,
        closing(_read_ahead(source, layer_idx, job)) as blocks,
    ):
        for block in blocks:
            if block.expert_idx == len(errors):
                encoder.reset(layer_idx, block.expert_idx)
                errors.append({})
            _encode(encoder, block)
            job.progress(block.stored_bytes)
            if _is_last(block, spec.hidden):
                encoder.finish()
                errors[-1] = encoder.errors()
                writers.add(encoder)
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


_NUMBERS: dict[Matrix, int] = {"gate": 0, "up": 1, "down": 2}
"""What the encoder calls them."""
RAW_DTYPES_OF = {np.dtype(raw).char: name for name, raw in RAW_DTYPES.values()}


def _is_last(block: Block, hidden: int) -> bool:
    return block.matrix == _NUMBERS["down"] and block.row_start + len(block.rows) == hidden


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

    def add(self, encoder: Encoder) -> None:
        """Append the record the encoder has finished."""
        for file, header in self._files:
            for i in range(len(header.segment_bytes)):
                data = (encoder.bf16() if header.kind == KIND_BF16 else encoder.segment(i)).data
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


def _read_blocks(source: SourceModel, layer_idx: int, block_bytes: int) -> Iterator[Block]:
    """Yield every row of a layer's experts in the encoder's order, in blocks of whole panels."""
    for expert_idx in range(source.spec.num_experts):
        for name in source.spec.experts.matrices:
            rows = source.expert_rows(layer_idx, expert_idx, name)
            weight = source.weights[rows.tensor]
            step = max(PANEL, block_bytes // source.read_bytes(rows) // PANEL * PANEL)
            bias = source.expert_bias(layer_idx, expert_idx, name) if source.spec.experts.bias else None
            for start in range(0, rows.rows, step):
                until = min(start + step, rows.rows)
                block, stored = source.read_rows(rows, start, until), weight.stored_bytes(start, until)
                yield Block(expert_idx, _NUMBERS[name], start, rows.tensor, block, stored, None if start else bias)


def _read_ahead(source: SourceModel, layer_idx: int, job: LayerJob) -> Generator[Block, None, None]:
    """`_read_blocks`, read by a thread of its own that stays a few blocks ahead."""
    ready: queue.Queue[Block | BaseException | None] = queue.Queue(QUEUED_BLOCKS - 2)
    stopped = threading.Event()

    def put(item: Block | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def read() -> None:
        try:
            for block in _read_blocks(source, layer_idx, job.block_bytes):
                if not put(block):
                    return
                del block  # the queue owns it now: one block less in memory while the next is read
            put(None)
        except BaseException as err:  # noqa: BLE001 - handed to the consumer, which raises it
            put(err)

    thread = threading.Thread(target=read, name="hobbit-export-reader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
            del item
    finally:
        stopped.set()
        thread.join()
