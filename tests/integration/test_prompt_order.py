"""An engine tells the rule of eviction which token of a prompt uses what, whether its experts are read or in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import MODEL

from edge_runtime import Engine
from edge_runtime.bundle.manifest_file import read
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.eviction.next_use import NextUse
from edge_runtime.policy.routing import Router

TEXT = (MODEL / "heldout_python.txt").read_text()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What routers choose, what the rule is told, and what layers find in memory, from now on."""
    found: dict[str, list[Any]] = {"chosen": [], "told": [], "in memory": []}
    route, tell, take = Router.route, NextUse.use_in_order, ExpertCache.take_resident

    def routed(self: Router, layer_idx: int, *args: Any) -> Any:
        routing = route(self, layer_idx, *args)
        found["chosen"].append((layer_idx, routing.topk_ids.tolist()))
        return routing

    def told(self: NextUse, layer_idx: int, tiers: Any, topk_ids: Any) -> None:
        found["told"].append((layer_idx, np.asarray(topk_ids).tolist()))
        tell(self, layer_idx, tiers, topk_ids)

    def taken(self: ExpertCache, *args: Any) -> Any:
        found["in memory"].append((resident := take(self, *args)) is not None)
        return resident

    monkeypatch.setattr(Router, "route", routed)
    monkeypatch.setattr(NextUse, "use_in_order", told)
    monkeypatch.setattr(ExpertCache, "take_resident", taken)
    return found


def test_the_rule_is_told_of_a_prompt_token_by_token(model_bundle, calls):
    manifest = read(model_bundle)
    layers, all_but_one = manifest.model.num_layers, manifest.model.num_layers * manifest.model.num_experts - 1
    options = {"tier": 4, "expert_memory": all_but_one * manifest.layout.tier_bytes(4), "prefetch": "off"}
    with Engine.open(
        model_bundle, memory="2GiB", context=64, self_check=False, eviction="next-use", **options
    ) as engine:
        ids = engine.tokenizer.encode(TEXT)[:40]
        for is_in_memory in (False, True):
            for each in calls.values():
                each.clear()
            engine.logits(ids, chunk=20)
            assert len(calls["told"]) == 2 * layers
            assert calls["told"] == calls["chosen"]
            assert calls["in memory"][:layers] == [is_in_memory] * layers
