# The surface of src/bindings.cpp; meanings and units are in edge_runtime/policy/native.py.
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_U8 = npt.NDArray[np.uint8]
_I32 = npt.NDArray[np.int32]
_F32 = npt.NDArray[np.float32]
_F64 = npt.NDArray[np.float64]

def router_isas() -> list[str]: ...

class Router:
    def __init__(
        self,
        experts: int,
        layers: int,
        *,
        score: str,
        over_chosen: bool,
        normalise: bool,
        epsilon: float,
        scale: float,
        groups: int,
        chosen_groups: int,
        two_best: bool,
        selection_bias: _F32 | None,
        expert_scale: _F32 | None,
        table: _I32 | None,
        near: float = -1.0,
        floor: float = 0.0,
        isa: str = "auto",
    ) -> None: ...
    def port(self) -> object: ...
    def route(self, place: int, logits: _F32, ids: _I32, weights: _F32, token_ids: _I32 | None = None) -> None: ...
    def route_layers(self, logits: _F32, ids: _I32, weights: _F32, token_ids: _I32 | None = None) -> None: ...
    def rank(self, logits: _F32, ids: _I32, weights: _F32) -> None: ...
    def weigh(self, place: int, logits: _F32, ids: _I32, weights: _F32) -> None: ...
    def preference(self, place: int, logits: _F32, out: _F32) -> None: ...

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
        router: Router,
        expert_factors: _F64 | None = None,
        base: int = 0,
        upgrades: int = 0,
    ) -> None: ...
    def decide(
        self,
        layer: int,
        logits: _F32,
        preference: _F32,
        ids: _I32,
        weights: _F32,
        resident: _U8,
        price: float,
        opportunity_cost: float,
        decided_ids: _I32,
        decided_weights: _F32,
        tiers: _U8,
        later: _U8,
    ) -> tuple[int, int, int, float, float, float]: ...
    def predict_tiers(
        self,
        layer: int,
        logits: _F32,
        preference: _F32,
        ids: _I32,
        weights: _F32,
        resident: _U8,
        price: float,
        opportunity_cost: float,
        tiers: _U8,
    ) -> None: ...
    def value_of_residents(self, layer: int, resident: _U8) -> float | None: ...
