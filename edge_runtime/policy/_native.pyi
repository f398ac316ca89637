# The surface of src/bindings.cpp; meanings and units are in edge_runtime/policy/native.py.
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_U8 = npt.NDArray[np.uint8]
_I32 = npt.NDArray[np.int32]
_F32 = npt.NDArray[np.float32]
_F64 = npt.NDArray[np.float64]

class OneToken:
    def __init__(
        self,
        losses: _F64,
        missing: _F64,
        held: _F64,
        shares: _F64,
        sums: _F64,
        factors: _F64,
        tokens: _F64,
        served: Sequence[int],
        full: int,
        horizon: float,
        keep: float,
        normalise: bool,
    ) -> None: ...
    def decide(
        self,
        layer: int,
        logits: _F32,
        ids: _I32,
        weights: _F32,
        resident: _U8,
        price: float,
        opportunity_cost: float,
        plan_ids: _I32,
        plan_weights: _F32,
        tiers: _U8,
    ) -> tuple[int, int, int, float, float, float]: ...
    def predict_tiers(
        self,
        layer: int,
        logits: _F32,
        ids: _I32,
        weights: _F32,
        resident: _U8,
        price: float,
        opportunity_cost: float,
        tiers: _U8,
    ) -> None: ...
    def value_of_residents(self, layer: int, resident: _U8) -> float | None: ...
