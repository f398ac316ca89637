"""The text that statistics are taken of, as windows of tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import ModelSpec
from hobbit_export.calibration import read_beginning
from hobbit_export.options import DEFAULT_TEXT, FITTING_TEXT, MEASURED_TOKENS
from hobbit_export.source import SourceModel

MAX_TOKENS, WINDOW = 8192, 256
_MOST_NUMBERS = 1 << 23
"""Of one array of a residual stream, however wide the model is."""


def most_tokens(spec: ModelSpec) -> int:
    """Tokens of a text that are run at most: it follows from the model alone, and so do the bytes of a bundle."""
    return min(MAX_TOKENS, max(_MOST_NUMBERS // spec.hidden, WINDOW))


def window_of(spec: ModelSpec) -> int:
    """Tokens that see each other: few, since no cache of the whole text is kept."""
    return min(WINDOW, spec.max_context)


def text_tokens(source: SourceModel, text: Path) -> NDArray[np.int32]:
    """Return the ids int32 [T] that codes are fitted to.

    Of a long text they are those behind what quality is measured on, so that it is not measured on what was fitted to.

    Raises:
        ConfigError: it has fewer than two.
    """
    from edge_runtime.engine.tokenizer import Tokenizer

    files = {file.name: file.read() for file in source.tokenizer()}
    chosen = FITTING_TEXT if text == DEFAULT_TEXT else text
    ids = Tokenizer(files, source.spec.vocab_size).encode(read_beginning(chosen))
    if len(ids) < 2:
        raise ConfigError(f"--calibrate: expected a text of at least 2 tokens, got {len(ids)}.")
    measured = MEASURED_TOKENS if chosen == text and len(ids) >= 2 * MEASURED_TOKENS else 0
    return np.asarray(ids[measured : measured + most_tokens(source.spec)], np.int32)
