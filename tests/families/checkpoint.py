"""A case's model and checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import families
from families.tokenizer import write_tokenizer
from families.weights import randomise

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def auto_class(family: str) -> Any:
    """Return the class of transformers that loads models of a family: one with a head for text."""
    import transformers

    return getattr(transformers, families.AUTO_CLASSES.get(family, "AutoModelForCausalLM"))


def load_model(checkpoint: Path, **options: Any) -> PreTrainedModel:
    """Load a checkpoint of any family, in eval mode."""
    family = json.loads((checkpoint / "config.json").read_text())["model_type"]
    return auto_class(family).from_pretrained(checkpoint, **options).eval()


def make_model(case: str, seed: int = 0) -> PreTrainedModel:
    """Return the float32 model of a case with random weights, in eval mode, using eager attention."""
    import torch

    torch.manual_seed(seed)
    config = families.FAMILY_CASES[case]()
    model = auto_class(config.model_type).from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        randomise(model, getattr(families.module_of(case), "WEIGHTS", ()))
    return model


def make_checkpoint(
    case: str, out: Path, dtype: str = "bfloat16", seed: int = 0, sharded: bool = False
) -> Path:  # fmt: skip
    """Write the random checkpoint of a case into `out` and return it.

    Args:
        case: a key of FAMILY_CASES.
        out: directory, created if needed.
        dtype: "bfloat16", "float16" or "float32".
        seed: of the weights.
        sharded: write several safetensors files and an index.
    """
    import torch

    model = make_model(case, seed).to(getattr(torch, dtype))
    model.save_pretrained(out, max_shard_size="100KB" if sharded else "5GB")
    write_tokenizer(out)
    return out
