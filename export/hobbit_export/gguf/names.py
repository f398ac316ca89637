"""Names of a family's tensors in GGUF, found through the tables of the `gguf` package."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from hobbit_export.arch.names import ExpertLayout, Named, Names
from hobbit_export.gguf.library import tensor_names

LAYERS = "blk.{layer}."
_FIRST = LAYERS.format(layer=0)
_TOGETHER = "blk.{layer}.ffn_%s_exps"
_JOINED = "blk.{layer}.ffn_gate_up_exps.weight"
_APART = "blk.{layer}.ffn_%s.{expert}"


def gguf_names(
    architecture: str, names: Names, own: Mapping[str, Named], before: Mapping[str, Named], present: Collection[str]
) -> Names:  # fmt: skip
    """Return how GGUF names the tensors that a family's adapter names as transformers does.

    Args:
        architecture: the family's name in GGUF.
        names: of its adapter.
        own: canonical name -> tensor (of layers: below ``blk.N.``), where the package's tables do not know it, or a
            weight is a part of another tensor than in transformers.
        before: the same of older files, where no layer has the tensor that `own` names.
        present: names of the tensors that are there.
    """
    layers = names.layers if isinstance(names.layers, str) else names.layers[0]
    first = _of_text(layers.format(layer=0))
    layer = {canonical: [first + name for name in _all(given)] for canonical, given in names.layer.items()}
    top = {canonical: [_of_text(name) for name in _all(given)] for canonical, given in names.top.items()}
    found = tensor_names(architecture, [name for given in (layer, top) for each in given.values() for name in each])

    def named(given: Mapping[str, list[str]]) -> dict[str, str]:
        mapped = {c: next((found[name] for name in each if name in found), None) for c, each in given.items()}
        return {c: _suffixed(name, present) for c, name in mapped.items() if name is not None}

    parts = {name.split(".", 2)[2] for name in present if name.startswith("blk.") and name.count(".") > 1}
    own = {c: before[c] if c in before and _tensor(name) not in parts else name for c, name in own.items()}
    of_layers = {canonical: name.removeprefix(_FIRST) for canonical, name in named(layer).items()}
    return Names(
        layouts=tuple(_layouts(present)),
        layer=of_layers | {c: name for c, name in own.items() if c not in names.top},
        top=named(top) | {c: name for c, name in own.items() if c in names.top},
        layers=LAYERS,
    )


def _tensor(named: Named) -> object:
    """The tensor a weight is, or is a part of."""
    return named if isinstance(named, str | tuple) else named.tensor


def _of_text(name: str) -> str:
    """A tensor's name without the part that says it belongs to the text model of several; the tables lack it."""
    return name.replace("model.language_model.", "model.")


def _all(given: object) -> tuple[str, ...]:
    """The tensors that may hold a weight as it is; none where an adapter derives it from others."""
    if isinstance(given, str):
        return (given,)
    return given if isinstance(given, tuple) else ()


def _suffixed(name: str, present: Collection[str]) -> str:
    """A tensor's name with the suffix that some architectures give to parameters which are no module's weight."""
    with_suffix = f"{name}.weight"
    return with_suffix if name not in present and with_suffix in present else name


def _layouts(present: Collection[str]) -> Iterable[ExpertLayout]:
    """All experts of a layer in one tensor; or, in files from before April 2024, each in its own."""
    if any(name.endswith(".ffn_gate_up_exps.weight") for name in present):
        yield ExpertLayout(_JOINED, _JOINED, f"{_TOGETHER % 'down'}.weight")
        return
    for pattern in (_TOGETHER, _APART):
        for matrices in (("gate", "up", "down"), ("", "up", "down")):
            weights = [f"{pattern % name}.weight" if name else "" for name in matrices]
            biases = [f"{pattern % name}.bias" if name else "" for name in matrices]
            yield ExpertLayout(*weights)
            yield ExpertLayout(*weights, *biases)
