"""Names of a family's tensors in GGUF, found through the tables of the `gguf` package."""

from __future__ import annotations

from collections.abc import Iterable

from hobbit_export.arch.names import ExpertLayout, Names
from hobbit_export.gguf.library import tensor_names

LAYERS = "blk.{layer}."
_FIRST = LAYERS.format(layer=0)
_TOGETHER = "blk.{layer}.ffn_%s_exps"
_APART = "blk.{layer}.ffn_%s.{expert}"


def gguf_names(architecture: str, names: Names) -> Names:
    """Return how GGUF names the tensors that a family's adapter names as transformers does."""
    layer = {canonical: _all(given) for canonical, given in names.layer.items()}
    first = names.layers.format(layer=0)
    wanted = [first + name for each in layer.values() for name in each]
    found = tensor_names(architecture, [*wanted, *names.top.values()])

    def named(canonical: Iterable[str]) -> str | None:
        return next((found[first + name] for name in canonical if first + name in found), None)

    return Names(
        layouts=tuple(_layouts()),
        layer={canonical: name.removeprefix(_FIRST) for canonical, each in layer.items() if (name := named(each))},
        top={canonical: found[name] for canonical, name in names.top.items() if name in found},
        layers=LAYERS,
    )


def _all(given: str | tuple[str, ...]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else given


def _layouts() -> Iterable[ExpertLayout]:
    """All experts of a layer in one tensor; or, in files from before April 2024, each in its own."""
    for pattern in (_TOGETHER, _APART):
        for matrices in (("gate", "up", "down"), ("", "up", "down")):
            weights = [f"{pattern % name}.weight" if name else "" for name in matrices]
            biases = [f"{pattern % name}.bias" if name else "" for name in matrices]
            yield ExpertLayout(*weights)
            yield ExpertLayout(*weights, *biases)
