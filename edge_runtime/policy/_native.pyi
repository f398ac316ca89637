# The surface of src/bindings.cpp; meanings and units are in edge_runtime/policy/native.py.
from collections.abc import Sequence

from edge_runtime.base.arrays import F32, F64, I32, U8

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
        selection_bias: F32 | None,
        expert_scale: F32 | None,
        table: I32 | None,
        near: float = -1.0,
        floor: float = 0.0,
        isa: str = "auto",
    ) -> None: ...
    def port(self) -> object: ...
    def route(self, place: int, logits: F32, ids: I32, weights: F32, token_ids: I32 | None = None) -> None: ...
    def route_layers(self, logits: F32, ids: I32, weights: F32, token_ids: I32 | None = None) -> None: ...
    def rank(self, logits: F32, ids: I32, weights: F32) -> None: ...
    def weigh(self, place: int, logits: F32, ids: I32, weights: F32) -> None: ...
    def preference(self, place: int, logits: F32, out: F32) -> None: ...

class HobbitDecider:
    def __init__(self, t1: float, t2: float, low: int, full: int) -> None: ...
    def port(self) -> object: ...

class CachePriorDecider:
    def __init__(
        self,
        bias: float,
        keeps: int,
        full: int,
        ranges: F64,
        tokens: F64,
        places: Sequence[int],
        router: Router,
    ) -> None: ...
    def port(self) -> object: ...

class MobileDecider:
    def __init__(self, little: int, full: int, rankings: I32) -> None: ...
    def port(self) -> object: ...

class OneToken:
    def __init__(
        self,
        losses: F64,
        missing: F64,
        held: F64,
        shares: F64,
        sums: F64,
        factors: F64,
        tokens: F64,
        served: Sequence[int],
        full: int,
        horizon: float,
        keep: float,
        router: Router,
        expert_factors: F64 | None = None,
        base: int = 0,
        upgrades: int = 0,
    ) -> None: ...
    def decide(
        self,
        layer: int,
        logits: F32,
        preference: F32,
        ids: I32,
        weights: F32,
        resident: U8,
        price: float,
        opportunity_cost: float,
        decided_ids: I32,
        decided_weights: F32,
        tiers: U8,
        later: U8,
    ) -> tuple[int, int, int, float, float, float]: ...
    def predict_tiers(
        self,
        layer: int,
        logits: F32,
        preference: F32,
        ids: I32,
        weights: F32,
        resident: U8,
        price: float,
        opportunity_cost: float,
        tiers: U8,
    ) -> None: ...
    def value_of_residents(self, layer: int, resident: U8) -> float | None: ...
