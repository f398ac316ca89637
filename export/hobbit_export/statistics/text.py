"""The text that statistics are taken of, as windows of tokens."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_runtime.base.arrays import I32
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import ModelSpec
from hobbit_export.calibration import read_beginning
from hobbit_export.options import DEFAULT_TEXT, FITTING_TEXT, MEASURED_TOKENS
from hobbit_export.source import SourceModel

MAX_TOKENS, WINDOW = 8192, 256
_MOST_NUMBERS = 1 << 23
"""Of one array of a residual stream, however wide the model is."""
HELD_OUT_TOKENS, MOST_HELD_OUT = 512, 1024
"""At least, and at most, of those an int4 trunk is judged on."""
_HELD_OUT_SHARE = 4
"""One in so many tokens of a text is held out."""


class HeldOut(NamedTuple):
    """Which tokens of a text an int4 trunk is fitted to, and which it is judged on: never the same.

    Attributes:
        fitted: so many of the first ones of `text_tokens`.
        ids: int32 [T], those it is judged on.
        where: which part of the text they are, for people.
    """

    fitted: int
    ids: I32
    where: str


def most_tokens(spec: ModelSpec) -> int:
    """Tokens of a text that are run at most: it follows from the model alone, and so do the bytes of a bundle."""
    return min(MAX_TOKENS, max(_MOST_NUMBERS // spec.hidden, WINDOW))


def window_of(spec: ModelSpec) -> int:
    """Tokens that see each other: few, since no cache of the whole text is kept."""
    return min(WINDOW, spec.max_context)


class CalibrationText:
    """The text of `--calibrate` as tokens: read and encoded when first asked for, and once."""

    def __init__(self, source: SourceModel, text: Path) -> None:
        self._source, self._text = source, text

    @cached_property
    def fitted(self) -> I32:
        """The ids int32 [T] that codes are fitted to.

        Of a long text they are those behind what quality is measured on, so that it is not measured on what was fitted
        to.

        Raises:
            ConfigError: it has fewer than two.
        """
        ids = self._encoded[_fitting(self._text)]
        if len(ids) < 2:
            raise ConfigError(f"--calibrate: expected a text of at least 2 tokens, got {len(ids)}.")
        measured = MEASURED_TOKENS if _fitting(self._text) == self._text and _is_long(ids) else 0
        return ids[measured : measured + most_tokens(self._source.spec)]

    @cached_property
    def held_out(self) -> HeldOut | None:
        """Which tokens an int4 trunk is fitted to and which it is judged on; None: the text is too short.

        Of the text that comes with the program, and of a long one, what quality is measured on is held out; of a
        shorter one its last quarter, and at least 512 tokens. What is fitted to are whole windows.
        """
        ids, most = self._encoded[self._text], most_tokens(self._source.spec)
        if self._text == DEFAULT_TEXT or _is_long(ids):
            enough = len(ids) >= HELD_OUT_TOKENS
            found = ids[:MOST_HELD_OUT]
            return HeldOut(len(self.fitted), found, f"first {len(found)} tokens") if enough else None
        if len(ids) < 2 * HELD_OUT_TOKENS:
            return None
        window = window_of(self._source.spec)
        before = len(ids) - max(HELD_OUT_TOKENS, len(ids) // _HELD_OUT_SHARE)
        fitted = min(before // window * window, most)
        found = ids[fitted : fitted + MOST_HELD_OUT]
        return HeldOut(fitted, found, f"tokens {fitted + 1} to {fitted + len(found)} of {len(ids)}")

    @cached_property
    def _encoded(self) -> dict[Path, I32]:
        """Ids of all texts there are, by one tokenizer: it is large, and given back at once."""
        from edge_runtime.engine.tokenizer import Tokenizer

        files = {file.name: file.read() for file in self._source.tokenizer()}
        tokenizer = Tokenizer(files, self._source.spec.vocab_size)
        texts = {self._text, _fitting(self._text)}
        return {text: np.asarray(tokenizer.encode(read_beginning(text)), np.int32) for text in texts}


def _fitting(text: Path) -> Path:
    """Return what codes are fitted to: other text than the one that comes with the program."""
    return FITTING_TEXT if text == DEFAULT_TEXT else text


def _is_long(ids: I32) -> bool:
    """Whether a text is parted: its first tokens are measured on, those behind them fitted to."""
    return len(ids) >= 2 * MEASURED_TOKENS
