"""Tiny random checkpoints of every supported family and option, as transformers itself writes them. Needs torch.

A file a family: `CASES`, functions that return the configuration of a case, by its name; `CONFIG_CLASS`, the name of
the class in transformers; where the general rules of weights.py do not do, `WEIGHTS`, rules that come before them;
`AUTO_CLASS` for models that are more than a decoder of text; and `REQUIRED`, options without which the family is not
one with experts. Nothing else names a family: a file that is here is found.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from families.checkpoint import load_model, make_checkpoint, make_model
from families.tokenizer import EOS, write_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = [
    "AUTO_CLASSES",
    "CONFIG_CLASSES",
    "EOS",
    "FAMILY_CASES",
    "REQUIRED",
    "family_of",
    "load_model",
    "make_checkpoint",
    "make_model",
    "module_of",
    "write_tokenizer",
]  # fmt: skip

_MODULES: dict[str, ModuleType] = {
    found.name: module
    for found in pkgutil.iter_modules(__path__)
    if hasattr(module := importlib.import_module(f"families.{found.name}"), "CASES")
}
_FAMILY_OF = {case: family for family, module in _MODULES.items() for case in module.CASES}

# name of a case -> what makes its configuration; every case has the name of its family or begins with it
FAMILY_CASES: Mapping[str, Callable[[], PreTrainedConfig]] = {
    case: make for module in _MODULES.values() for case, make in module.CASES.items()
}
# model_type -> name of its configuration class in transformers
CONFIG_CLASSES: Mapping[str, str] = {family: module.CONFIG_CLASS for family, module in _MODULES.items()}
# model_type -> name of the auto class that loads it, where that is not the one for decoders of text
AUTO_CLASSES: Mapping[str, str] = {
    family: module.AUTO_CLASS for family, module in _MODULES.items() if hasattr(module, "AUTO_CLASS")
}

# model_type -> options of its configuration without which it has no experts
REQUIRED: Mapping[str, Mapping[str, Any]] = {
    family: getattr(module, "REQUIRED", {}) for family, module in _MODULES.items()
}


def family_of(case: str) -> str:
    """Return the model_type of a case's family."""
    return _FAMILY_OF[case]


def module_of(case: str) -> ModuleType:
    """Return the module a case is defined in."""
    return _MODULES[_FAMILY_OF[case]]
