"""Array types, named once: each by its kind of number and its bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F16 = NDArray[np.float16]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]

Keys = NDArray[np.intp]
"""Experts of a whole model, flat: ``layer * num_experts + expert``."""
