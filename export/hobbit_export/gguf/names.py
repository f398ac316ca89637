"""Names of a family's tensors in GGUF, found through the tables of the `gguf` package."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from hobbit_export.arch.names import ExpertLayout, Names
from hobbit_export.gguf.library import tensor_names

LAYERS = "blk.{layer}."
_FIRST = LAYERS.format(layer=0)
_TOGETHER = "blk.{layer}.ffn_%s_exps"
_APART = "blk.{layer}.ffn_%s.{expert}"


def gguf_names(architecture: str, names: Names, own: Mapping[str, str], present: Container[str]) -> Names:
    """Return how GGUF names the tensors that a family's adapter names as transformers does.

    Args:
        architecture: the family's name in GGUF.
        names: of its adapter.
        own: canonical name -> tensor below ``blk.N.``, where the package's tables do not know it.
        present: names of the tensors that are there.
    """
    layer = {canonical: _all(given) for canonical, given in names.layer.items()}
    first = _of_text(names.layers.format(layer=0))
    top = {canonical: _of_text(name) for canonical, name in names.top.items()}
    wanted = [first + name for each in layer.values() for name in each]
    found = tensor_names(architecture, [*wanted, *top.values()])

    def named(canonical: Iterable[str]) -> str | None:
        mapped = next((found[first + name] for name in canonical if first + name in found), None)
        # a parameter that is no module's weight or bias has a suffix in some architectures
        with_suffix = f"{mapped}.weight"
        return with_suffix if mapped is not None and mapped not in present and with_suffix in present else mapped

    return Names(
        layouts=tuple(_layouts()),
        layer={c: name.removeprefix(_FIRST) for c, each in layer.items() if (name := named(each))} | dict(own),
        top={canonical: found[name] for canonical, name in top.items() if name in found},
        layers=LAYERS,
    )


def _of_text(name: str) -> str:
    """A tensor's name without the part that says it belongs to the text model of several; the tables lack it."""
    return name.replace("model.language_model.", "model.")


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
