"""Array types, named once: each by its kind of number and its bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F16 = NDArray[np.float16]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I8 = NDArray[np.int8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.integer]
"""Of any width."""
Structs = NDArray[np.void]
"""Of named fields."""
Indices = NDArray[np.intp]
Keys = Indices
"""Experts of a whole model, flat: ``layer * num_experts + expert``."""
