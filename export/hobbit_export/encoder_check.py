"""Which instruction set encodes here: the best one whose bytes are the portable encoder's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from edge_runtime.backends.cpu.kernels import ExpertEncoder, available_isas
from edge_runtime.base.arrays import F32

_LOG = logging.getLogger(__name__)
HIDDEN, INTERMEDIATE, SEGMENTS = 64, 96, 4
PORTABLE = "scalar"
Encode = Callable[[str], list[bytes]]


@cache
def encoder_isa() -> str:
    """Return the instruction set to encode with, compared once a process on a small expert (milliseconds).

    An encoder is compiled for each instruction set, and all must write the same bytes. Not every one of them can be run
    where this is developed, so each machine checks its own.
    """
    return choose(available_isas(), encode_sample)


def choose(isas: Sequence[str], encode: Encode) -> str:
    """Return the first of `isas`, best first, that encodes as the portable one does; says so if one does not."""
    wanted = encode(PORTABLE)
    for isa in isas:
        if isa == PORTABLE or encode(isa) == wanted:
            return isa
        _LOG.warning(
            "the %s encoder writes other bytes on this machine than the portable one and is not used: the export is "
            "slower, and right. Please report this processor.",
            isa,
        )
    return PORTABLE


def encode_sample(isa: str) -> list[bytes]:
    """Encode a fixed expert: heavy-tailed weights, a row of zeros, a constant row, a row with one outlier."""
    encoder = ExpertEncoder(0, 0, HIDDEN, INTERMEDIATE, SEGMENTS, bf16=True, isa=isa)
    rng = np.random.default_rng(512)
    for matrix, shape in enumerate([(INTERMEDIATE, HIDDEN)] * 2 + [(HIDDEN, INTERMEDIATE)]):
        rows: F32 = (rng.standard_t(5, shape) / np.sqrt(shape[1])).astype(np.float32)
        rows[1], rows[2], rows[3, 5] = 0, 0.25, 40
        encoder.add_rows(matrix, 0, rows, "f32")
    encoder.finish()
    return [encoder.segment(i).tobytes() for i in range(SEGMENTS)] + [encoder.bf16().tobytes()]
