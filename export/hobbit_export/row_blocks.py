"""Rows of a layer's experts, block by block: a thread reads ahead of the encoder, so that drive and CPU overlap."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

from numpy.typing import NDArray

from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import Matrix
from edge_runtime.bundle.record import PANEL
from hobbit_export.source import SourceModel

QUEUED_BLOCKS = 4
"""Row blocks alive at once: one being encoded, one being read, two waiting."""
NUMBERS: dict[Matrix, int] = {"gate": 0, "up": 1, "down": 2}
"""What the encoder calls the matrices."""


class Block(NamedTuple):
    """Consecutive rows of one expert matrix, their bytes in the checkpoint, and before the first ones its biases."""

    expert_idx: int
    matrix: int
    row_start: int
    tensor: str
    rows: NDArray[Any]
    stored_bytes: int
    bias: F32 | None = None


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
                yield Block(expert_idx, NUMBERS[name], start, rows.tensor, block, stored, None if start else bias)


def read_ahead(source: SourceModel, layer_idx: int, block_bytes: int) -> Generator[Block, None, None]:
    """Yield the blocks of a layer, read by a thread of its own that stays a few blocks ahead."""
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
            for block in _read_blocks(source, layer_idx, block_bytes):
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
