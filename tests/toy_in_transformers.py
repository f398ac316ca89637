"""transformers with the family of docs/adding-a-model.md: OLMoE under other names, also in checkpoints. For `pytest -p`."""

from __future__ import annotations

import sys
from typing import Any

import transformers
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter, WeightRenaming


class ToyMoeConfig(transformers.OlmoeConfig):
    """What the page's cases ask transformers for."""

    model_type = "toy_moe"

    def to_dict(self) -> dict[str, Any]:
        """Leave out OLMoE's own options, which the page's adapter does not know."""
        return {name: value for name, value in super().to_dict().items() if name not in ("clip_qkv", "sliding_window")}


class ToyMoeForCausalLM(transformers.OlmoeForCausalLM):
    """The model."""

    config_class = ToyMoeConfig


sys.modules["transformers"].ToyMoeConfig = ToyMoeConfig  # by then it is another module than the one imported above
transformers.AutoConfig.register("toy_moe", ToyMoeConfig)
transformers.AutoModelForCausalLM.register(ToyMoeConfig, ToyMoeForCausalLM)
_GATE_AND_UP = ["moe.experts.*.in_gate.weight", "moe.experts.*.in_up.weight"]
register_checkpoint_conversion_mapping(
    "toy_moe",
    [
        WeightRenaming("moe.router.", "mlp.gate."),
        WeightConverter(_GATE_AND_UP, "mlp.experts.gate_up_proj", [MergeModulelist(dim=0), Concatenate(dim=1)]),
        WeightConverter("moe.experts.*.out.weight", "mlp.experts.down_proj", [MergeModulelist(dim=0)]),
    ],
)
