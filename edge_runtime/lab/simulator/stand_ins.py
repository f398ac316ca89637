"""Stand-ins for what a replay leaves out: logits that say as much of the text as was recorded."""

from __future__ import annotations

from math import log

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


def recorded_logits(confidence: F32, vocab_size: int) -> F32:
    """Make up logits float32 [rows, V] whose largest probability is the recorded one: all a policy may look at.

    Args:
        confidence: float32 [rows], the largest probability; NaN counts as 1.
        vocab_size: V.
    """
    logits, others = np.zeros((len(confidence), vocab_size), np.float32), max(vocab_size - 1, 1)
    for row, recorded in enumerate(confidence.tolist()):
        known = min(max(1.0 if recorded != recorded else recorded, 1e-9), 1 - 1e-9)
        logits[row, 0] = log(known * others / (1 - known))
    return logits
