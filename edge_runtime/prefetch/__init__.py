"""Reading experts before they are asked for: who predicts, how far ahead, and whether it pays. Predictors by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.backends.base import MemoryFormulas
from edge_runtime.base.params import Param, parse_named
from edge_runtime.base.spec import ModelSpec
from edge_runtime.prefetch import expert_map, lookahead, statistical
from edge_runtime.prefetch.prefetcher import Predictor, PredictorContext


def _no_bytes(spec: ModelSpec, formulas: MemoryFormulas, **params: Any) -> int:
    return 0


@dataclass(frozen=True)
class RegisteredPredictor:
    """A predictor that can be asked for by name.

    Attributes:
        summary: whom it predicts and by what, one line, for help and docs.
        params: its parameters.
        make: called with the `PredictorContext`, and all parameters but `adaptive` by keyword; None: nothing predicts.
        nbytes: says what memory it takes of a model under a backend's formulas; called with the parameters as well.
        looks_ahead: applies routers of coming layers: needs `Trunk.look_ahead`, and the bundle's stacked routers.
    """

    summary: str
    params: Mapping[str, Param] = field(default_factory=dict)
    make: Callable[..., Predictor] | None = None
    nbytes: Callable[..., int] = _no_bytes
    looks_ahead: bool = False


PREDICTORS: dict[str, RegisteredPredictor] = {
    "off": RegisteredPredictor("nothing is read ahead"),
    "lookahead": RegisteredPredictor(
        lookahead.SUMMARY, lookahead.PARAMS, lookahead.make, lookahead.nbytes, looks_ahead=True
    ),
    "expert-map": RegisteredPredictor(expert_map.SUMMARY, expert_map.PARAMS, expert_map.make, expert_map.nbytes),
    "statistical": RegisteredPredictor(statistical.SUMMARY, statistical.PARAMS, statistical.make, statistical.nbytes),
}


def parse_prefetch(text: str, where: str = "prefetch") -> tuple[str, dict[str, Any]]:
    """Split ``name:param=value,...``; see `parse_named`."""
    return parse_named(text, {name: entry.params for name, entry in PREDICTORS.items()}, where)


def reads_ahead(text: str) -> bool:
    """Whether anything is read ahead by the predictor that ``name:param=value,...`` asks for."""
    return PREDICTORS[parse_prefetch(text)[0]].make is not None


def looks_ahead(text: str) -> bool:
    """Whether the predictor that ``name:param=value,...`` asks for needs `Trunk.look_ahead`."""
    return PREDICTORS[parse_prefetch(text)[0]].looks_ahead


def create_predictor(text: str, context: PredictorContext) -> Predictor | None:
    """Build the predictor that ``name:param=value,...`` asks for; None where nothing predicts.

    Args:
        text: name and parameters.
        context: what it is built for.

    Raises:
        ConfigError: see `parse_prefetch`.
    """
    entry, params = _asked(text)
    return entry.make and entry.make(context, **params)


def predictor_bytes(text: str, spec: ModelSpec, formulas: MemoryFormulas) -> int:
    """Memory of the predictor that ``name:param=value,...`` asks for, under a backend with these formulas."""
    entry, params = _asked(text)
    return entry.nbytes(spec, formulas, **params)


def _asked(text: str) -> tuple[RegisteredPredictor, dict[str, Any]]:
    """A predictor and its own parameters; `adaptive` is of whoever reads by it."""
    name, params = parse_prefetch(text)
    return PREDICTORS[name], {key: value for key, value in params.items() if key != "adaptive"}
