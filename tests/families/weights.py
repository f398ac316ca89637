"""Random weights by name: router and output logits are spread widely.

Greedy tokens and expert choices are then stable under the rounding noise the tests allow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# fills a tensor in place; the flag says whether the model's embeddings are its head as well
Fill: TypeAlias = "Callable[[torch.Tensor, bool], object]"
# a pattern searched in the name of a parameter or buffer, and what fills those it is found in
Rule: TypeAlias = "tuple[str, Fill]"


def normal(mean: float, std: float) -> Fill:
    """Return what draws from a normal distribution."""
    return lambda tensor, tied: tensor.normal_(mean, std)


def by_fan_in(scale: float) -> Fill:
    """Return what draws around zero so that an output has about `scale` times the spread of the inputs."""
    return lambda tensor, tied: tensor.normal_(0.0, scale / _root(tensor))


def _root(tensor: torch.Tensor) -> float:
    return float(tensor.shape[-1] ** 0.5)


def _embedding(tensor: torch.Tensor, tied: bool) -> object:
    return tensor.normal_(0.0, 4.0 / _root(tensor) if tied else 0.6)


# the first rule that fits counts
RULES: tuple[Rule, ...] = (
    (r"norm\.weight$", normal(1.0, 0.15)),
    (r"bias$", normal(0.0, 0.2)),
    (r"embed_tokens", _embedding),
    (r"lm_head|mlp\.gate\.weight$|router\.weight$", by_fan_in(4.0)),
    (r"", by_fan_in(1.0)),
)


def randomise(model: PreTrainedModel, rules: Sequence[Rule] = ()) -> None:
    """Fill a model's parameters in their order, then those buffers that the given rules name.

    Args:
        model: changed in place.
        rules: of the model's family; they come before the general ones.
    """
    tied = bool(model.config.get_text_config().tie_word_embeddings)
    for name, tensor in model.named_parameters():
        _fill_of(name, (*rules, *RULES))(tensor, tied)  # type: ignore[misc]
    for name, buffer in model.named_buffers():
        if (fill := _fill_of(name, rules)) is not None:
            fill(buffer, tied)


def _fill_of(name: str, rules: Sequence[Rule]) -> Fill | None:
    return next((fill for pattern, fill in rules if re.search(pattern, name)), None)
